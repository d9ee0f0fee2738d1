"""The length of predictions is the one at which they agree most with the teacher, and it travels with the student."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from chorus_common.standardise import Moments, phi_s
from stage2_distill.encoder import build_encoder
from stage2_distill.lengths import FACTORS, best_length
from stage2_distill.losses.anchors import choose_anchors
from stage2_distill.student import Student, StudentTeacher, load_student, save_student

C = 8


def make_student(mean: float) -> Student:
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((400, C)) + mean
    teacher = StudentTeacher(spec="x:y", fingerprint="f", channels=C, hidden=8)
    small = {"enc_channels": (16, 16), "enc_depths": (1, 1), "dec_channels": (16,)}
    student = Student(build_encoder("chorus", **small), {"text": teacher})
    student.set_basis("text", phi_s(Moments.of(tokens)))
    return student


def agreement(student: Student, predicted: torch.Tensor, target: torch.Tensor, length: float) -> float:
    """Row by row, with nothing batched: share of rows whose nearest cluster is the target's."""
    basis = student.basis("text")
    own = [F.normalize(basis.inverse(t), dim=0) for t in target]
    anchors = torch.from_numpy(choose_anchors(torch.stack(own).numpy(), 64, 0))
    hits = 0
    for p, t in zip(predicted, own):
        mine = F.normalize(basis.inverse(p / p.norm() * length), dim=0)
        hits += int(torch.stack([mine @ a for a in anchors]).argmax() == torch.stack([t @ a for a in anchors]).argmax())
    return hits / len(target)


def blurred(rng: np.random.Generator, kinds: int = 12, rows: int = 240) -> tuple[torch.Tensor, torch.Tensor]:
    """Teacher's features of some kinds, and predictions in doubt between the right kind and the mean of all."""
    centres = rng.standard_normal((kinds, C)) * 1.2
    kind = rng.integers(kinds, size=rows)
    target = centres[kind] + 0.2 * rng.standard_normal((rows, C))
    predicted = 0.4 * centres[kind] + 0.6 * centres.mean(0) + 0.2 * rng.standard_normal((rows, C))
    return torch.from_numpy(predicted).float(), torch.from_numpy(target).float()


@pytest.mark.parametrize("seed", range(3))
def test_best_length_is_the_best_of_a_slow_search(seed: int) -> None:
    student = make_student(3.0)
    predicted, target = blurred(np.random.default_rng(seed))
    scores = [agreement(student, predicted, target, f * C**0.5) for f in FACTORS]
    assert len(set(scores)) > 3
    assert (
        best_length(student, "text", F.normalize(predicted, dim=1), target, 0)
        == FACTORS[int(np.argmax(scores))] * C**0.5
    )


def test_length_is_used_and_saved(tmp_path: Path) -> None:
    student = make_student(3.0)
    rows = torch.randn(5, C)
    plain = student.unstandardise("text", rows)
    student.set_length("text", 2 * C**0.5)
    mean = student.basis("text").mean
    torch.testing.assert_close(student.unstandardise("text", rows) - mean, 2 * (plain - mean))
    save_student(student, tmp_path)
    torch.testing.assert_close(load_student(tmp_path).unstandardise("text", rows), student.unstandardise("text", rows))
