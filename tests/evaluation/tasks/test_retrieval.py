from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chorus_common.manifest import Manifest, ManifestRow
from chorus_common.scene_io import write_npy_folder
from evaluation.comparison import compare
from evaluation.features import ArrayFeatures
from evaluation.metrics.retrieval import rank
from evaluation.perturb import PERTURBATIONS, perturb
from evaluation.scenes import EvalScene, LoadedScene, Selection, select_scenes
from evaluation.tasks.retrieval import RetrievalConfig, retrieval
from tests.evaluation.instance_rooms import room_with_instances


class Place:
    """Features that know where a Gaussian is, and nothing else."""

    def open(self, scene: LoadedScene) -> ArrayFeatures:
        means = scene.gaussians.means
        return ArrayFeatures(
            np.concatenate([means - means.mean(0), np.ones((len(means), 1))], axis=1).astype(np.float32)
        )


class Colour:
    """Features that do not care for rotation or subsampling."""

    def open(self, scene: LoadedScene) -> ArrayFeatures:
        return ArrayFeatures(scene.gaussians.colors)


class Constant:
    def open(self, scene: LoadedScene) -> ArrayFeatures:
        return ArrayFeatures(np.ones((len(scene.gaussians), 4), np.float32))


def rooms(folder: Path, *, shuffle: int | None = None) -> Selection:
    rows = []
    for i in range(3):
        scene = room_with_instances(i)
        if shuffle is not None:
            scene = scene.select(np.random.default_rng(shuffle).permutation(len(scene)))
        write_npy_folder(scene, folder / f"room_{i}")
        rows.append(
            ManifestRow(
                "toy", f"room_{i}", "val", "npy-folder", folder / f"room_{i}", None, "scannet20", len(scene), "0" * 64
            )
        )
    return select_scenes([], Manifest(folder, tuple(rows)).write(folder / "manifest.parquet"), "val")


CONFIG = RetrievalConfig(label_space="scannet20", min_size=20)
SOURCES = {"place": Place(), "colour": Colour(), "constant": Constant()}


def test_figures_tell_invariant_features_from_others(tmp_path: Path) -> None:
    body, scores = retrieval(rooms(tmp_path), SOURCES, CONFIG)
    for difference in compare(scores, "place", scores, "colour", draws=100)[:4]:
        values = [body["rows"][name]["mean"][difference.metric] for name in ("place", "colour")]
        assert [difference.a, difference.b] == pytest.approx(values), "what is drawn from is what is reported"
    assert body["rows"]["colour"]["turn-90"]["recall_at_1"] == 1.0
    assert body["rows"]["colour"]["keep-0.2"]["map"] > 0.9
    assert body["rows"]["place"]["turn-180"]["recall_at_1"] < body["rows"]["place"]["noise-0.01"]["recall_at_1"]
    assert body["rows"]["constant"]["mean"]["recall_at_1"] == 0, "features that tell nothing get no credit"
    assert body["chance"] == pytest.approx(1 / 3)


def test_workers_and_row_order_change_nothing(tmp_path: Path) -> None:
    first = retrieval(rooms(tmp_path / "a"), SOURCES, CONFIG)
    assert retrieval(rooms(tmp_path / "b"), SOURCES, CONFIG, workers=2) == first
    # Rows of the files in another order: no feature and no seed knows it, except the draw of noise per Gaussian.
    fixed = CONFIG.model_copy(update={"perturbations": ("turn-30", "turn-180")})
    assert retrieval(rooms(tmp_path / "c", shuffle=1), SOURCES, fixed) == retrieval(
        rooms(tmp_path / "d"), SOURCES, fixed
    )


def test_ranks_equal_the_plain_definition() -> None:
    rng = np.random.default_rng(0)
    queries, gallery = rng.normal(size=(9, 5)), rng.normal(size=(12, 5))
    gallery[7] = gallery[3]  # a tie
    right, classes = rng.integers(0, 12, 9), rng.integers(0, 3, 12)
    right[0] = 3
    found = rank(queries, gallery, right, classes)
    for q in range(9):
        cos = [round(float(queries[q] @ g / np.linalg.norm(queries[q]) / np.linalg.norm(g)), 9) for g in gallery]
        position = sum(c >= cos[right[q]] for c in cos)
        order = sorted(range(12), key=lambda i: (-cos[i], classes[i] == classes[right[q]]))
        hits = [classes[i] == classes[right[q]] for i in order]
        precision = [sum(hits[: i + 1]) / (i + 1) for i in range(12) if hits[i]]
        np.testing.assert_allclose(found[q], [position == 1, 1 / position, hits[0], np.mean(precision)])


def test_labels_outside_the_label_space_leave_their_scene_out(tmp_path: Path) -> None:
    selection = rooms(tmp_path)
    segment = tmp_path / "room_1" / "segment.npy"
    labels = np.load(segment)
    labels[0] = 20
    np.save(segment, labels)
    body, _ = retrieval(selection, {"place": Place()}, CONFIG)
    assert list(body["per_scene"]) == ["toy/room_0", "toy/room_2"]
    assert body["excluded"] == {
        "toy/room_1": "toy/room_1: ground truth 20 is outside the label space of 20 classes (scannet20)"
    }
    assert selection.failed, "exit code 1"


def test_perturbations_keep_track_of_the_gaussians() -> None:
    scene = LoadedScene(EvalScene("toy", "a"), room_with_instances(0), None)
    for name in PERTURBATIONS:
        changed, kept = perturb(scene, name, 0)
        again, _ = perturb(scene, name, 0)
        np.testing.assert_array_equal(changed.gaussians.means, again.gaussians.means)
        np.testing.assert_array_equal(changed.gaussians.instances, scene.gaussians.instances[kept])
        np.testing.assert_array_equal(changed.gaussians.opacities, scene.gaussians.opacities[kept])
    turned, kept = perturb(scene, "turn-90", 0)
    # Distances and covariances turn with the scene.
    before, after = scene.gaussians.means[kept].astype(float), turned.gaussians.means.astype(float)
    np.testing.assert_allclose(
        np.linalg.norm(before - before[0], axis=1), np.linalg.norm(after - after[0], axis=1), atol=1e-5
    )
    from chorus_common.scene import quats_to_rotations

    quarter = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(
        quats_to_rotations(turned.gaussians.quats), quarter @ quats_to_rotations(scene.gaussians.quats[kept]), atol=1e-5
    )
    half, _ = perturb(scene, "keep-0.5", 0)
    assert len(half.gaussians) == len(scene.gaussians) // 2
