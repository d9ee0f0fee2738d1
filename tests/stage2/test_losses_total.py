"""A teacher's terms together: autocast, which makes the predictions, does not reach into what compares them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stage2_distill.data.augment import AugmentConfig
from stage2_distill.data.dataset import CacheDataset
from stage2_distill.encoder import build_encoder
from stage2_distill.losses.schedule import TermWeights
from stage2_distill.losses.total import teacher_terms
from stage2_distill.settings import (
    DataSettings,
    LabelContrastSettings,
    MaskContrastSettings,
    PrototypeSettings,
    TeacherSettings,
)
from stage2_distill.student import Student, StudentTeacher
from tests.stage2.store_fakes import add_masks, make_entries, make_standardisers


@pytest.mark.parametrize("term", ["prototypes", "masks", "labels", "distillation"])
def test_terms_are_computed_in_full_precision(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TeacherSettings(
        prototypes=PrototypeSettings(weight=1, balance=0.5),
        masks=MaskContrastSettings(weight=1, cover=0.0),
        labels=LabelContrastSettings(weight=1, min_rows=2),
        cosine_space="teacher",
        smooth_l1_space="teacher",
    )
    weights = TermWeights(1.0, **({} if term == "distillation" else {term: 1.0}))
    encoder = build_encoder("chorus-lite", enc_channels=(8, 16))
    entries = add_masks(make_entries(scenes=2, n=600))
    dataset = CacheDataset(
        entries, {"text": 8}, {"text": settings}, encoder.config, DataSettings(), AugmentConfig(), seed=0, batch_size=2
    )
    batch = dataset.batch(0, 0, 2)
    student = Student(encoder, {"text": StudentTeacher(spec="x:y", fingerprint="f", channels=8, hidden=8)})
    student.set_standardiser("text", make_standardisers(entries)["text"])
    monkeypatch.setattr(student, "project", lambda name, latent: latent)
    torch.manual_seed(0)
    said = torch.randn(len(batch.points), 8).bfloat16().requires_grad_()
    prototypes = torch.nn.functional.normalize(torch.randn(6, 8), dim=1)

    def outcome(autocast: bool) -> tuple[Any, ...]:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            terms = teacher_terms(student, "text", said, batch, settings, weights, prototypes)
        said.grad = None
        terms.loss.backward()
        assert said.grad is not None
        return terms.loss, *terms.values().values(), said.grad

    assert set(teacher_terms(student, "text", said, batch, settings, weights, prototypes).others) <= {term}
    for a, b in zip(outcome(True), outcome(False), strict=True):
        assert torch.equal(a, b)
