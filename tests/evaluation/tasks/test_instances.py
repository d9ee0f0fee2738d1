from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from chorus_common.labels import SCANNET20
from chorus_common.manifest import Manifest, ManifestRow
from chorus_common.runtime.errors import CacheError
from chorus_common.scene_io import write_npy_folder
from evaluation.features import ArrayFeatures
from evaluation.predictions.folder import PredictionFolder
from evaluation.prompts import class_embeddings
from evaluation.proposals.files import ProposalFiles
from evaluation.proposals.ground_truth import GroundTruthProposals
from evaluation.scenes import LoadedScene, Selection, select_scenes
from evaluation.tasks.instances import InstancesConfig, instances, name_masks, pool_features
from evaluation.tasks.zero_shot import Method, ZeroShotConfig, vote_in_instances, zero_shot
from tests.evaluation.instance_rooms import BOXES, room_with_instances
from tests.evaluation.rooms import WordVectors

TEXT = class_embeddings(WordVectors(), SCANNET20)
CONFIG = InstancesConfig(label_space="scannet20", min_region=20)


class ByColour:
    """The embedding of the box whose colour is nearest: perfect features that never look at labels."""

    def open(self, scene: LoadedScene) -> ArrayFeatures:
        palette = np.array([box[3] for box in BOXES])
        nearest = ((scene.gaussians.colors[:, None] - palette) ** 2).sum(-1).argmin(1)
        return ArrayFeatures(TEXT[[SCANNET20.index(box[0]) for box in BOXES]][nearest])


def rooms(folder: Path, n: int = 2, *, shuffle: int | None = None, points: bool = False) -> Selection:
    rows = []
    for i in range(n):
        scene = room_with_instances(i)
        if shuffle is not None:
            scene = scene.select(np.random.default_rng(shuffle).permutation(len(scene)))
        path = folder / f"room_{i}"
        write_npy_folder(scene, path)
        if points:
            np.save(path / "pc_coord.npy", scene.means[::-1] + np.float32(1e-4))
            np.save(path / "pc_segment20.npy", scene.labels[::-1])  # type: ignore[index]
            np.save(path / "pc_instance.npy", scene.instances[::-1])  # type: ignore[index]
        rows.append(ManifestRow("toy", path.name, "val", "npy-folder", path, None, "scannet20", len(scene), "0" * 64))
    return select_scenes([], Manifest(folder, tuple(rows)).write(folder / "manifest.parquet"), "val")


def run(selection: Selection, *proposals: object, config: InstancesConfig = CONFIG, **options: object) -> dict:
    return instances(selection, SCANNET20, TEXT, {"student": ByColour()}, proposals, config, **options)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["gaussians", "points"])
def test_perfect_features_on_true_masks_are_perfect_and_marked(tmp_path: Path, target: str) -> None:
    config = CONFIG.model_copy(update={"target": target})
    body = run(rooms(tmp_path, points=True), GroundTruthProposals(), config=config)
    row = body["rows"]["student on ground truth (oracle)"]
    assert row["oracle"] is True
    assert (row["ap"], row["ap50"], row["ap25"]) == (1.0, 1.0, 1.0)
    assert row["per_class"]["floor"]["ap"] is None, "the benchmark does not ask for floors"
    assert row["per_class"]["chair"]["n_gt"] == 2


def test_written_predictions_are_read_as_proposals(tmp_path: Path) -> None:
    writer = PredictionFolder(tmp_path / "out", "scannet20", SCANNET20)
    first = run(rooms(tmp_path / "rooms"), GroundTruthProposals(), predictions=writer)
    folder = tmp_path / "out" / "student-on-ground-truth-(oracle)" / "toy"
    lines = (folder / "instances" / "room_0.txt").read_text().splitlines()
    assert sorted(line.split()[1] for line in lines) == ["4", "5", "7"]  # NYU40 ids of bed, chair, table
    scene = room_with_instances(0)
    mask = np.array((folder / "instances" / lines[0].split()[0]).read_text().split()) == "1"
    assert len(set(scene.instances[mask])) == 1, "rows are those of the source file"  # type: ignore[index]
    second = run(rooms(tmp_path / "again"), ProposalFiles(folder / "instances", origin="file"))
    row = second["rows"]["student on file"]
    assert row["oracle"] is False
    assert row["ap"] == first["rows"]["student on ground truth (oracle)"]["ap"] == 1.0


def test_order_of_points_and_batch_size_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(rooms(tmp_path / "a"), GroundTruthProposals())
    assert run(rooms(tmp_path / "b", shuffle=3), GroundTruthProposals()) == first
    zero = zero_shot_of(rooms(tmp_path / "a"))
    assert zero_shot_of(rooms(tmp_path / "b", shuffle=3)) == zero
    for module in ("instances", "zero_shot"):
        monkeypatch.setattr(f"evaluation.tasks.{module}.PASS", 37)
    assert run(rooms(tmp_path / "a"), GroundTruthProposals())["rows"] == first["rows"]
    assert zero_shot_of(rooms(tmp_path / "a")) == zero


def zero_shot_of(selection: Selection, **config: object) -> dict:
    settings = ZeroShotConfig(label_space="scannet20", **config)  # type: ignore[arg-type]
    return zero_shot(selection, SCANNET20, TEXT, {"student": Method(ByColour())}, settings)[0]


def test_scenes_that_cannot_be_scored_are_stated(tmp_path: Path) -> None:
    selection = rooms(tmp_path, 3)
    (tmp_path / "room_1" / "instance.npy").unlink()
    segment = next((tmp_path / "room_2").glob("segment*.npy"))
    labels = np.load(segment)
    labels[5] = 77
    np.save(segment, labels)
    body = run(selection, GroundTruthProposals())
    assert body["excluded"]["toy/room_1"] == "no ground-truth instances"
    assert list(body["per_scene"]) == ["toy/room_0"]
    selection = rooms(tmp_path / "again", 1)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "room_0.txt").write_text("m.txt 5 0.5\n")
    (tmp_path / "files" / "m.txt").write_text("1\n0\n")
    with pytest.raises(CacheError, match="has 2 lines, the scene 600 vertices"):
        run(selection, ProposalFiles(tmp_path / "files"))
    with pytest.raises(CacheError, match="outside the label space of 20 classes"):
        zero_shot_of(Selection([s for s in rooms(tmp_path / "x", 1).scenes if _relabel(s.source)]))


def test_labels_of_another_space_are_not_read_as_it(tmp_path: Path) -> None:
    """A file that names no space holds the manifest's classes: as indices of another table they would be nonsense."""
    (scene,) = rooms(tmp_path, 1).scenes
    own = scene.load("scannet20").gaussians
    assert scene.load("scannet200").gaussians.labels is None
    np.save(tmp_path / "room_0" / "segment200.npy", np.arange(len(own), dtype=np.int16) % 7)
    other = scene.load("scannet200").gaussians
    np.testing.assert_array_equal(other.labels, other.source_ids % 7)  # type: ignore[arg-type]
    np.testing.assert_array_equal(scene.load().gaussians.labels, own.labels)  # type: ignore[arg-type]


def _relabel(folder: Path | None) -> bool:
    assert folder is not None
    segment = next(folder.glob("segment*.npy"))
    np.save(segment, np.where(np.load(segment) == 4, 77, np.load(segment)))
    return True


def test_oracle_rows_are_marked_and_vote_within_instances(tmp_path: Path) -> None:
    rows = zero_shot_of(rooms(tmp_path, 1), oracle_instances=True)["rows"]
    assert {name: row["oracle"] for name, row in rows.items()} == {"student": False, "student + oracle instances": True}
    rng = np.random.default_rng(0)
    predictions, ids = rng.integers(-1, 4, 200).astype(np.int32), rng.integers(-1, 9, 200)
    expected = predictions.copy()
    for i in range(9):
        inside = predictions[ids == i]
        votes = [(inside == c).sum() for c in range(4)]
        expected[ids == i] = votes.index(max(votes)) if max(votes) else -1
    np.testing.assert_array_equal(vote_in_instances(predictions, ids, 4), expected)


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    from evaluation.run_scenes import PartialResults

    selection = rooms(tmp_path, 2)
    partial = PartialResults.beside(tmp_path / "r.json", {"a": 1})
    whole = run(rooms(tmp_path, 2), GroundTruthProposals(), partial=partial)
    kept = sorted(partial.folder.iterdir())
    assert len(kept) == 2
    stored = json.loads(kept[0].read_text())
    stored["scene_result"]["proposals"]["ground truth"] = (
        99  # a mark that only a partial result that was kept can leave
    )
    kept[0].write_text(json.dumps(stored))
    kept[1].unlink()
    again = run(selection, GroundTruthProposals(), partial=partial)
    assert again["rows"] == whole["rows"]
    assert again["per_scene"]["toy/room_0"]["proposals"] == {"ground truth": 99}
    other = PartialResults.beside(tmp_path / "r.json", {"a": 2})
    assert other.load(selection.scenes[0]) is None, "other settings, other partial results"
    partial.clear()
    assert not partial.folder.exists()


def test_pooling_is_the_mean_of_unit_features() -> None:
    from evaluation.proposals.proposals import rows_to_masks

    rng = np.random.default_rng(0)
    features = rng.normal(size=(30, 5)).astype(np.float32)
    features[4] = 0
    rows = [np.array([0, 4, 9]), np.array([4]), np.arange(30)]
    pooled = pool_features(ArrayFeatures(features), 30, rows_to_masks(rows, 30))
    for found, row in zip(pooled, rows):
        units = [features[i] / np.linalg.norm(features[i]) for i in row if i != 4]
        np.testing.assert_allclose(found, np.mean(units, axis=0) if units else 0, atol=1e-6)
    classes, probability = name_masks(pooled, TEXT[:, :5] / np.linalg.norm(TEXT[:, :5], axis=1, keepdims=True), 0.1)
    assert classes[1] == -1
    assert 0 < probability[0] < 1
