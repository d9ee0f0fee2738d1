"""Releases that are folders or tables of .npy files; Gaussians made from points, or trained ones that take labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus_common.runtime.errors import SceneError
from chorus_common.scene import GaussianScene
from chorus_common.scene_io import read_scene, write_npy_folder, write_ply
from data_manifests.datasets.gaussians import first_per_cell, transfer
from data_manifests.datasets.prepare import Prepared, prepare
from data_manifests.datasets.raw_scene import Annotations, LabelledPoints
from data_manifests.datasets.settings import PrepareConfig, TrainedGaussians
from tests.data_manifests.release_makers import npy_scene


def run(tmp_path: Path, release: dict[str, object], spaces: list[str], **more: object) -> Prepared:
    config = PrepareConfig.model_validate({"name": "set", "label_spaces": spaces, "release": release} | more)
    return prepare(config, tmp_path / "raw", tmp_path / "out")


def load(folder: Path, *keys: str) -> list[np.ndarray]:
    return [np.load(folder / f"{key}.npy") for key in keys]


def ids(seed: int, n: int, top: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1, top, n)


def gaussians(seed: int, n: int, low: float = 0.0, high: float = 2.0) -> GaussianScene:
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(n, 4))
    quats *= np.sign(quats[:, :1]) / np.linalg.norm(quats, axis=1, keepdims=True)
    return GaussianScene(
        means=rng.uniform(low, high, (n, 3)).astype(np.float32),
        quats=quats.astype(np.float32),
        scales=rng.uniform(0.01, 0.1, (n, 3)).astype(np.float32),
        opacities=rng.uniform(0.1, 0.9, n).astype(np.float32),
        colors=(rng.integers(0, 256, (n, 3)) / 255).astype(np.float32),
    )


# ---- Pointcept ----


def test_pointcept_folders_keep_every_point_label_and_normal(tmp_path: Path) -> None:
    want = npy_scene(
        tmp_path / "raw" / "train" / "scene0000_00", 0, segment20=ids(1, 60, 20), segment200=ids(2, 60, 200),
        instance=ids(3, 60, 9),
    )  # fmt: skip
    npy_scene(tmp_path / "raw" / "test" / "scene0707_00", 4)
    result = run(tmp_path, {"layout": "pointcept"}, ["scannet20", "scannet200"])
    assert [(o.scene_id, o.split, o.error) for o in result.outcomes] == [
        ("scene0707_00", "test", ""), ("scene0000_00", "train", ""),
    ]  # fmt: skip
    folder = tmp_path / "out" / "set" / "scene0000_00"
    for key in ("coord", "color", "segment20", "segment200", "instance"):
        np.testing.assert_array_equal(load(folder, key)[0], want[key])
    np.testing.assert_allclose(load(folder, "normal")[0], want["normal"], atol=1e-6)
    for key in ("coord", "segment20", "segment200", "instance"):
        np.testing.assert_array_equal(load(folder, f"pc_{key}")[0], want[key])


def test_pointcept_s3dis_rooms_are_called_by_area_and_room(tmp_path: Path) -> None:
    for area in (1, 5):
        npy_scene(tmp_path / "raw" / f"Area_{area}" / "office_1", area, segment=ids(area, 60, 13)[:, None])
    release = {"layout": "pointcept", "scene_ids": "path",
               "scenes": {"train": "Area_[12346]/*", "val": "Area_5/*"}}  # fmt: skip
    result = run(tmp_path, release, ["s3dis13"])
    assert [(o.scene_id, o.split) for o in result.outcomes] == [
        ("Area_1_office_1", "train"), ("Area_5_office_1", "val"),
    ]  # fmt: skip
    labels = load(tmp_path / "out" / "set" / "Area_5_office_1", "pc_segment")[0]
    np.testing.assert_array_equal(labels, ids(5, 60, 13))


@pytest.mark.parametrize(
    ("file", "value", "message"),
    [
        ("segment20", np.full(60, 20), "holds label 20, outside scannet20 with 20 classes"),
        ("segment20", np.zeros(59, np.int64), r"has shape \(59,\) for 60 points"),
        ("segment20", np.full(60, 0.5), "expected integers"),
        ("color", np.full((60, 3), 900), "neither 0 to 1 nor 0 to 255"),
        ("color", np.zeros((59, 3), np.uint8), "has 59 rows for 60 points"),
        ("coord", np.full((60, 3), np.nan, np.float32), "not finite at row 0"),
        ("coord", np.zeros((60, 2), np.float32), r"expected \[M, 3\]"),
        ("coord", None, "no such file"),
        ("instance", np.full(60, 2**40), "do not fit 32 bits"),
    ],
)
def test_bad_arrays_fail_their_scene_alone(tmp_path: Path, file: str, value: np.ndarray | None, message: str) -> None:
    for i in range(2):
        npy_scene(tmp_path / "raw" / "train" / f"s{i}", i, segment20=ids(i, 60, 20), instance=ids(i, 60, 5))
    path = tmp_path / "raw" / "train" / "s0" / f"{file}.npy"
    path.unlink()
    if value is not None:
        np.save(path, value)
    result = run(tmp_path, {"layout": "pointcept"}, ["scannet20"])
    with pytest.raises(SceneError, match=message):
        raise SceneError(result.outcomes[0].error)
    assert str(path.parent) in result.outcomes[0].error
    assert result.outcomes[1].error == ""


# ---- SceneSplat ----


def test_scenesplat_scenes_keep_gaussians_and_points_but_not_language_features(tmp_path: Path) -> None:
    scene = gaussians(0, 50)
    folder = tmp_path / "raw" / "val" / "scene0011_00"
    write_npy_folder(scene, folder)
    more = {
        "segment20": ids(1, 50, 20), "instance": np.stack([ids(2, 50, 4), ids(3, 50, 4)], axis=1),
        "lang_feat": np.ones((50, 768), np.float16), "pc_coord": scene.means[::2] + 0.01,
        "pc_segment20": ids(4, 25, 20), "pc_instance": ids(5, 25, 4),
    }  # fmt: skip
    for key, value in more.items():
        np.save(folder / f"{key}.npy", value)
    result = run(tmp_path, {"layout": "scenesplat"}, ["scannet20", "scannet200"])
    out = tmp_path / "out" / "set" / "scene0011_00"
    assert result.outcomes[0].error == ""
    assert not list(out.glob("lang*"))
    assert not list(out.glob("*segment200*"))
    read = read_scene(out, label_space="scannet20")
    for key in ("means", "quats", "scales", "opacities", "colors"):
        np.testing.assert_allclose(getattr(read, key), getattr(scene, key), atol=1e-6)
    np.testing.assert_array_equal(read.labels, more["segment20"])
    np.testing.assert_array_equal(read.instances, more["instance"][:, 0])
    for key in ("pc_coord", "pc_segment20", "pc_instance"):
        np.testing.assert_array_equal(load(out, key)[0], more[key])


def test_scenesplat_labels_of_another_length_fail_the_scene(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "val" / "a"
    write_npy_folder(gaussians(0, 50), folder)
    np.save(folder / "pc_coord.npy", np.zeros((7, 3), np.float32))
    np.save(folder / "pc_segment20.npy", np.zeros(8, np.int64))
    result = run(tmp_path, {"layout": "scenesplat"}, ["scannet20"])
    assert "pc_segment20.npy: has shape (8,) for 7 points" in result.outcomes[0].error


# ---- tables ----


def test_tables_of_points_with_nyu40_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = np.concatenate([rng.normal(size=(70, 3)), rng.integers(0, 256, (70, 3))], axis=1).astype(np.float32)
    nyu, objects = rng.integers(0, 41, 70).astype(np.uint32), rng.integers(0, 6, 70).astype(np.uint32)
    (tmp_path / "raw").mkdir()
    for key, value in (("vert", table), ("sem_label", nyu), ("ins_label", objects)):
        np.save(tmp_path / "raw" / f"scene0000_00_{key}.npy", value)
    release = {
        "layout": "point-tables", "scenes": {"train": "{scene_id}_vert.npy"}, "labels": "{scene_id}_sem_label.npy",
        "label_ids": "nyu40id", "instances": "{scene_id}_ins_label.npy", "no_instance": 0,
    }  # fmt: skip
    result = run(tmp_path, release, ["scannet20"])
    out = tmp_path / "out" / "set" / "scene0000_00"
    classes = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39)
    expected = [classes.index(i) if i in classes else -1 for i in nyu.tolist()]
    np.testing.assert_array_equal(load(out, "pc_segment20")[0], expected)
    np.testing.assert_array_equal(load(out, "segment20")[0], expected)
    np.testing.assert_array_equal(load(out, "pc_instance")[0], np.where(objects == 0, -1, objects.astype(int)))
    np.testing.assert_array_equal(load(out, "pc_coord")[0], table[:, :3])
    np.testing.assert_array_equal(load(out, "color")[0], table[:, 3:])
    assert result.outcomes[0].summary["point_labels"]["scannet20"]["unannotated"] == np.count_nonzero(nyu == 0)
    assert "nyu40id labels are those of scannet20" in run(tmp_path, release, ["scannet200"]).outcomes[0].error
    np.save(tmp_path / "raw" / "scene0000_00_sem_label.npy", nyu[:-1])
    assert "sem_label.npy: has shape (69,) for 70 points" in run(tmp_path, release, ["scannet20"]).outcomes[0].error


# ---- Gaussians ----


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.floats(0.01, 3))
def test_first_per_cell_equals_a_dictionary(seed: int, n: int, grid: float) -> None:
    coord = np.random.default_rng(seed).uniform(-2, 2, (n, 3)).astype(np.float32)
    seen: dict[tuple[float, ...], int] = {}
    for row, point in enumerate(coord.astype(np.float64)):
        seen.setdefault(tuple(np.floor(point / grid).tolist()), row)
    assert first_per_cell(coord, grid).tolist() == sorted(seen.values())


def test_a_grid_thins_the_gaussians_and_never_the_scored_points(tmp_path: Path) -> None:
    want = npy_scene(tmp_path / "raw" / "train" / "a", 0, n=500, segment20=ids(1, 500, 20))
    result = run(tmp_path, {"layout": "pointcept"}, ["scannet20"], grid=0.5)
    folder = tmp_path / "out" / "set" / "a"
    rows = first_per_cell(np.asarray(want["coord"]), 0.5)
    assert 1 < len(rows) < 500
    np.testing.assert_array_equal(load(folder, "coord")[0], want["coord"][rows])
    np.testing.assert_array_equal(load(folder, "segment20")[0], want["segment20"][rows])
    np.testing.assert_array_equal(load(folder, "pc_coord")[0], want["coord"])
    np.testing.assert_array_equal(load(folder, "pc_segment20")[0], want["segment20"])
    assert result.outcomes[0].summary["dropped"] == 500 - len(rows)


def test_trained_gaussians_take_the_label_of_their_nearest_point(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    coord = rng.uniform(0, 2, (200, 3)).astype(np.float32)
    truth = Annotations(
        {"scannet20": ids(6, 200, 20).astype(np.int16)}, ids(7, 200, 9).astype(np.int32), ids(8, 200, 2) > 0
    )
    points = LabelledPoints(coord, np.zeros((200, 3), np.uint8), None, truth)
    scene = gaussians(9, 300, low=-1.0, high=3.0)
    found = transfer(scene, points, TrainedGaussians(margin=0.3, reach=0.2), "a.ply")
    kept = [i for i, m in enumerate(scene.means) if (m >= coord.min(0) - 0.3).all() and (m <= coord.max(0) + 0.3).all()]
    np.testing.assert_array_equal(found.scene.source_ids, kept)
    assert found.dropped == 300 - len(kept)
    for row, i in enumerate(kept):
        distance = np.linalg.norm(coord.astype(np.float64) - scene.means[i], axis=1)
        near = int(distance.argmin())
        reached = distance[near] <= 0.2
        assert found.labels.segments["scannet20"][row] == (truth.segments["scannet20"][near] if reached else -1)
        assert found.labels.instances is not None
        assert truth.instances is not None
        assert found.labels.instances[row] == (truth.instances[near] if reached else -1)
    assert (truth.segments["scannet20"] == ids(6, 200, 20)).all(), "the points keep their labels"
    with pytest.raises(SceneError, match="another frame"):
        transfer(gaussians(9, 30, low=50, high=60), points, TrainedGaussians(), "a.ply")


def test_a_release_of_points_with_trained_gaussians(tmp_path: Path) -> None:
    want = npy_scene(tmp_path / "raw" / "train" / "a", 0, n=300, segment20=ids(1, 300, 20))
    npy_scene(tmp_path / "raw" / "train" / "b", 1, segment20=ids(2, 60, 20))
    trained = gaussians(3, 80)
    (tmp_path / "3dgs" / "a" / "ckpts").mkdir(parents=True)
    write_ply(trained, tmp_path / "3dgs" / "a" / "ckpts" / "point_cloud_30000.ply")
    where = {"path": str(tmp_path / "3dgs" / "{scene_id}" / "ckpts" / "point_cloud_30000.ply")}
    result = run(tmp_path, {"layout": "pointcept"}, ["scannet20"], gaussians=where)
    assert result.outcomes[0].error == ""
    assert "b/ckpts/point_cloud_30000.ply: no such file" in result.outcomes[1].error
    scene = read_scene(tmp_path / "out" / "set" / "a")
    assert len(scene) + result.outcomes[0].summary["dropped"] == 80
    np.testing.assert_array_equal(load(tmp_path / "out" / "set" / "a", "pc_coord")[0], want["coord"])
