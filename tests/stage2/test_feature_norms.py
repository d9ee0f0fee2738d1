"""The feature norm of predictions is the one at which they agree most with the teacher, and it travels with the
student."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from chorus_common.features.standardise import Moments, phi_s
from stage2_distill.data.augment import AugmentConfig
from stage2_distill.data.dataset import CacheDataset
from stage2_distill.data.order import FEATURE_NORMS, generator
from stage2_distill.encoder import build_encoder
from stage2_distill.feature_norms import FACTORS, PER_SCENE, best_feature_norm, calibrate_feature_norms
from stage2_distill.losses.prototypes import choose_prototypes
from stage2_distill.settings import DataSettings
from stage2_distill.student import Student, StudentTeacher, load_student, save_student
from tests.stage2.store_fakes import make_entries

C = 8


def make_student(mean: float) -> Student:
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((400, C)) + mean
    teacher = StudentTeacher(spec="x:y", fingerprint="f", channels=C, hidden=8)
    small = {"enc_channels": (16, 16), "enc_depths": (1, 1), "dec_channels": (16,)}
    student = Student(build_encoder("chorus-lite", **small), {"text": teacher})
    student.set_standardiser("text", phi_s(Moments.of(tokens)))
    return student


def agreement(student: Student, predicted: torch.Tensor, target: torch.Tensor, feature_norm: float) -> float:
    """Row by row, with nothing batched: share of rows whose nearest cluster is the target's."""
    standardiser = student.standardiser("text")
    own = [F.normalize(standardiser.inverse(t), dim=0) for t in target]
    prototypes = torch.from_numpy(choose_prototypes(torch.stack(own).numpy(), 64, 0))
    hits = 0
    for p, t in zip(predicted, own):
        mine = F.normalize(standardiser.inverse(p / p.norm() * feature_norm), dim=0)
        hits += int(
            torch.stack([mine @ a for a in prototypes]).argmax() == torch.stack([t @ a for a in prototypes]).argmax()
        )
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
        best_feature_norm(student, "text", F.normalize(predicted, dim=1), target, 0)
        == FACTORS[int(np.argmax(scores))] * C**0.5
    )


@pytest.mark.parametrize("max_points", [0, 120])
def test_lengths_are_measured_on_scenes_no_larger_than_training_takes(max_points: int) -> None:
    torch.manual_seed(0)
    encoder = build_encoder("chorus-lite", enc_channels=(8, 16), enc_depths=(1, 1), inputs={"grid_size": 0.05})
    teachers = {n: StudentTeacher(spec="x:y", fingerprint="f", channels=c, hidden=8) for n, c in (("a", 8), ("b", 12))}
    entries = make_entries(scenes=3, n=500, teachers={"a": 8, "b": 12})
    data = DataSettings(max_points=max_points)
    dataset = CacheDataset(entries, {"a": 8, "b": 12}, {}, encoder.config, data, AugmentConfig(), seed=0, batch_size=1)
    student = Student(encoder, teachers)
    seen: list[int] = []
    encoder.register_forward_pre_hook(lambda _, batch: seen.append(len(batch[0])))
    calibrate_feature_norms(student, dataset, 5)
    assert len(seen) == 3
    assert max(seen) <= (max_points or 500)
    assert min(seen) > (0 if max_points else 120)
    # as if all targets were there and rows were drawn of them, teacher after teacher
    rng = generator(5, FEATURE_NORMS)
    found: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {"a": [], "b": []}
    for number in sorted(rng.permutation(3).tolist()):
        batch = dataset.plain(number).batch
        with torch.no_grad():
            latent = encoder(batch.points)
            for name, target in batch.targets.items():
                drawn = rng.permutation(len(target.rows))[:PER_SCENE]
                said = F.normalize(student.project(name, latent[target.rows[drawn]]), dim=1)
                found[name].append((said, target.values[drawn]))
    for name, pairs in found.items():
        said, wanted = (torch.cat(part) for part in zip(*pairs))
        assert student.config.teachers[name].feature_norm == best_feature_norm(student, name, said, wanted, 5)


def test_length_is_used_and_saved(tmp_path: Path) -> None:
    student = make_student(3.0)
    rows = torch.randn(5, C)
    plain = student.unstandardise("text", rows)
    student.set_feature_norm("text", 2 * C**0.5)
    mean = student.standardiser("text").mean
    torch.testing.assert_close(student.unstandardise("text", rows) - mean, 2 * (plain - mean))
    save_student(student, tmp_path)
    torch.testing.assert_close(load_student(tmp_path).unstandardise("text", rows), student.unstandardise("text", rows))
