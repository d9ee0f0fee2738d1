"""What a student answers voxel by voxel, against its features in full."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chorus_common.scene_io import write_scene
from evaluation import label
from evaluation.features import StudentFeatures
from evaluation.relevancy import scene_relevancy
from evaluation.scenes import scene_at
from evaluation.tasks import zero_shot
from stage2_distill.student import load_student
from tests.stage2.inference.golden_scene import golden_scene

WEIGHTS = Path(__file__).parents[1] / "data" / "chorus_3dgs_small.pth"


class _Plain:
    """The same features without their short cuts."""

    def __init__(self, scene: object) -> None:
        self.rows = scene.rows  # type: ignore[attr-defined]


@pytest.mark.parametrize("k", [1, 6])
def test_relevancy_classes_and_confidence(k: int, tmp_path: Path) -> None:
    write_scene(golden_scene("3dgs"), tmp_path / "room.ply")
    scene = scene_at(tmp_path / "room.ply").load()
    n = len(scene.gaussians)
    student = load_student(WEIGHTS)
    found = StudentFeatures(student, "lang").open(scene)
    plain = _Plain(found)
    rng = np.random.default_rng(0)
    text = rng.normal(size=(k + 4, student.config.teachers["lang"].channels)).astype(np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    queries, phrases = text[:k], text[k:]
    expected = scene_relevancy(plain, n, queries, phrases)
    first = scene_relevancy(found, n, queries, phrases)
    again = scene_relevancy(found, n, queries, phrases)  # with the lengths that the first question left
    assert first.dtype == np.float32
    assert np.abs(first - expected).max() < 1e-4
    assert np.abs(again - expected).max() < 1e-4
    assert expected.std() > 1e-4, "what is compared must differ"
    classes, confidence = label.classify(found, n, text)
    plain_classes, plain_confidence = label.classify(plain, n, text)
    assert (classes == plain_classes).mean() > 0.999
    np.testing.assert_allclose(confidence, plain_confidence, atol=1e-4)
    assert (zero_shot.classify(found, n, text) == zero_shot.classify(plain, n, text)).mean() > 0.999
