"""ScanNet++'s release: vertices, the benchmark's labels and instances equal the truth; damage gives one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from chorus_common.cameras import CameraSet, look_at
from chorus_common.labels import SPACES
from chorus_common.manifest import Manifest
from chorus_common.runtime.errors import ManifestError
from data_manifests.datasets.prepare import prepare
from data_manifests.datasets.settings import PrepareConfig
from tests.chorus_common.capture_layouts import write_colmap
from tests.data_manifests.release_makers import tiny_scan, write_scan

MAP = (
    "class,count,semantic_map_to,instance_map_to\n"
    "wall,9,,\noffice chair,9,chair,chair\ncushion,9,pillow,pillow\nremove,3,None,None\nodd thing,1,,\n"
)
#: Objects over the segments 5, 15, ... of a tiny scan; the cushion lies within the chair.
OBJECTS = (
    (4, "wall", (5, 55)), (0, "office chair", (15, 25)), (7, "cushion", (25,)), (2, "remove", (35,)),
    (3, "odd thing", (45,)),
)  # fmt: skip


def write_scene(root: Path, scene_id: str, seed: int, folder: str = "data", *, annotated: bool = True) -> np.ndarray:
    """One scene in ScanNet++'s layout; the segment of each vertex."""
    scan = tiny_scan(seed)
    write_scan(root / "made" / scene_id, scan, annotated=False)
    scans = root / folder / scene_id / "scans"
    scans.mkdir(parents=True)
    (root / "made" / scene_id / f"{scene_id}_vh_clean_2.ply").rename(scans / "mesh_aligned_0.05.ply")
    if annotated:
        (scans / "segments.json").write_text(json.dumps({"segIndices": scan.segments.tolist()}))
        groups = [{"id": i, "objectId": i, "label": raw, "segments": list(s)} for i, raw, s in OBJECTS]
        (scans / "segments_anno.json").write_text(json.dumps({"segGroups": groups}))
    k = np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
    poses = np.stack([look_at(np.array([3.0, i, 1]), np.zeros(3)) for i in range(2)])
    cameras = CameraSet(poses, np.stack([k] * 2), 64, 48, ("DSC1.JPG", "DSC2.JPG"))
    write_colmap(
        root / folder / scene_id / "dslr" / "colmap", cameras, list(cameras.names), "OPENCV_FISHEYE", "0.01 0 0 0"
    )
    return scan.segments


def write_release(root: Path) -> dict[str, np.ndarray]:
    found = {f"scene{i}": write_scene(root, f"scene{i}", i) for i in range(3)}
    (root / "splits").mkdir()
    (root / "splits" / "nvs_sem_train.txt").write_text("scene0\nscene1\nabsent\n")
    (root / "splits" / "nvs_sem_val.txt").write_text("scene2\n")
    table = root / "metadata" / "semantic_benchmark" / "map_benchmark.csv"
    table.parent.mkdir(parents=True)
    table.write_text(MAP)
    return found


def config(**release: object) -> PrepareConfig:
    return PrepareConfig.model_validate(
        {"name": "scannetpp", "label_spaces": ["scannetpp100"], "release": {"layout": "scannetpp"} | release}
    )


def test_every_vertex_takes_the_smallest_object_that_it_is_in(tmp_path: Path) -> None:
    segments = write_release(tmp_path / "raw")
    result = prepare(config(), tmp_path / "raw", tmp_path / "out")
    assert [outcome.error for outcome in result.outcomes] == [""] * 3
    assert any("absent" in note for note in result.notes)
    names = SPACES["scannetpp100"].names
    class_of = {"wall": "wall", "office chair": "chair", "cushion": "pillow"}
    for row in Manifest.read(result.manifest):
        assert row.split == ("val" if row.scene_id == "scene2" else "train")
        assert row.cameras_path is not None
        label, instance = (np.load(row.scene_path / f"pc_{key}.npy") for key in ("segment", "instance"))
        own = segments[row.scene_id]
        for vertex, segment in enumerate(own.tolist()):
            holders = [
                (sum(int((own == s).sum()) for s in parts), i, raw) for i, raw, parts in OBJECTS if segment in parts
            ]
            if not holders:
                assert (label[vertex], instance[vertex]) == (-1, -1)
                continue
            _, object_id, raw = min(holders, key=lambda holder: holder[0])
            assert instance[vertex] == object_id
            expected = names.index(class_of[raw]) if raw in class_of else -1
            assert label[vertex] == expected, raw
    assert "pillow" in names


def test_splits_without_annotations(tmp_path: Path) -> None:
    write_release(tmp_path / "raw")
    write_scene(tmp_path / "raw", "held", 9, "sem_test", annotated=False)
    lists = {"val": "splits/nvs_sem_val.txt", "test": ["held"]}
    result = prepare(config(split_lists=lists), tmp_path / "raw", tmp_path / "out")
    assert [outcome.error for outcome in result.outcomes] == ["", ""]
    rows = {row.scene_id: row for row in Manifest.read(result.manifest)}
    assert (rows["held"].split, rows["held"].label_space) == ("test", "")
    assert rows["scene2"].label_space == "scannetpp100"


def edit(file: str, change: Callable[[dict[str, list[object]]], object]) -> Callable[[Path], object]:
    def spoil(scans: Path) -> None:
        data = json.loads((scans / file).read_text())
        change(data)
        (scans / file).write_text(json.dumps(data))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: (s / "mesh_aligned_0.05.ply").unlink(), "no such mesh"),
        (lambda s: (s / "segments.json").unlink(), "segments.json: no such file"),
        (edit("segments.json", lambda d: d["segIndices"].pop()), "has segments for 79 vertices, but the mesh has 80"),
        (lambda s: (s / "segments_anno.json").write_text("{"), "not valid JSON"),
        (edit("segments_anno.json", lambda d: d.update(segGroups=[{"objectId": 1}])), r"segGroups\[0\] is damaged"),
        (
            edit("segments_anno.json", lambda d: d.update(segGroups=[{"id": 1, "label": "x", "segments": [9]}])),
            "names no segment of the mesh",
        ),
    ],
)
def test_a_damaged_scene_fails_alone(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    write_release(tmp_path / "raw")
    spoil(tmp_path / "raw" / "data" / "scene1" / "scans")
    result = prepare(config(), tmp_path / "raw", tmp_path / "out")
    errors = {outcome.scene_id: outcome.error for outcome in result.outcomes}
    assert errors["scene0"] == errors["scene2"] == ""
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(errors["scene1"])


def test_the_table_of_classes(tmp_path: Path) -> None:
    write_release(tmp_path / "raw")
    table = tmp_path / "raw" / "metadata" / "semantic_benchmark" / "map_benchmark.csv"
    table.write_text("a,b\n1,2\n")
    result = prepare(config(), tmp_path / "raw", tmp_path / "out")
    assert all("has no columns class and semantic_map_to" in outcome.error for outcome in result.outcomes)
    with pytest.raises(ManifestError, match="no such split list"):
        prepare(config(split_lists={"val": "splits/none.txt"}), tmp_path / "raw", tmp_path / "out")
