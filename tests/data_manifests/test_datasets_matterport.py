"""Matterport3D's release: vertices, labels by OpenScene's rule, objects and cameras; damage gives one line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus_common.camera_io import read_cameras
from chorus_common.labels import MPCAT40, SPACES
from chorus_common.manifest import Manifest
from chorus_common.runtime.errors import SceneError
from data_manifests.datasets.face_votes import vertex_majority
from data_manifests.datasets.matterport_labels import MATTERPORT_SPACES, read_category_table
from data_manifests.datasets.prepare import prepare
from data_manifests.datasets.settings import PrepareConfig
from tests.data_manifests.matterport_houses import CATEGORIES, OBJECTS, SPLITS, Region, table, write_release

ALL = ["matterport160", "matterport21", "mpcat40"]


def config(label_spaces: list[str] | None = None, **release: object) -> PrepareConfig:
    return PrepareConfig.model_validate(
        {
            "name": "mp3d",
            "label_spaces": label_spaces or ALL,
            "release": {"layout": "matterport3d", "split_lists": SPLITS} | release,
        }
    )


def vote(region: Region, of_face: list[int]) -> list[int]:
    """OpenScene's rule, vertex by vertex: most faces, no label among the candidates, the lowest of equals."""
    found = []
    for vertex in range(len(region.vertices)):
        votes: Counter[int] = Counter()
        for face, label in zip(region.faces.tolist(), of_face):
            votes[label] += face.count(vertex)
        top = max(votes.values(), default=0)
        found.append(min((label for label, n in votes.items() if n == top), default=-1) if top else -1)
    return found


def class_of(category: int, space: str) -> int:
    if category < 1:
        return -1
    _, nyu40, nyu, own = CATEGORIES[category - 1]
    names = SPACES[space].names
    if space == "matterport160":
        return names.index(nyu) if nyu in names else -1
    number = int((own if space == "mpcat40" else nyu40) or -1)
    return SPACES[space].ids.index(number) if number in SPACES[space].ids else -1


def test_regions_have_the_labels_that_openscene_gives_their_vertices(tmp_path: Path) -> None:
    made = write_release(tmp_path / "raw")
    result = prepare(config(), tmp_path / "raw", tmp_path / "out")
    assert [outcome.error for outcome in result.outcomes] == [""] * 15
    assert any("zHouse" in note for note in result.notes)
    rows = {row.scene_id: row for row in Manifest.read(result.manifest)}
    assert set(rows) == {name for name in made if "_" in name}
    assert {row.scene_id for row in rows.values() if row.split == "val"} == {"cHouse_00"}
    seen: set[int] = set()
    for scene_id, row in rows.items():
        region = made[scene_id]
        np.testing.assert_array_equal(np.load(row.scene_path / "pc_coord.npy"), region.vertices)
        for space in ALL:
            labels = np.load(row.scene_path / f"pc_{SPACES[space].file}.npy").tolist()
            assert labels == vote(region, [class_of(c, space) for c in region.categories]), space
            seen |= set(labels)
        ids = [OBJECTS[i][0] if i >= 0 else -1 for i in vote(region, region.objects)]
        assert np.load(row.scene_path / "pc_instance.npy").tolist() == ids
        counts = json.loads((row.scene_path / "scene.json").read_text())["point_labels"]["matterport160"]
        unannotated = vote(region, [0 if c > 0 else -1 for c in region.categories]).count(-1)
        assert counts["unannotated"] == unannotated
    assert len(seen) > 4
    assert rows["aHouse_00"].label_space == "matterport160"


def test_a_region_has_the_cameras_of_the_panoramas_that_were_taken_in_it(tmp_path: Path) -> None:
    write_release(tmp_path / "raw")
    rows = {row.scene_id: row for row in Manifest.read(prepare(config(), tmp_path / "raw", tmp_path / "out").manifest)}
    for scene_id, pano in (("aHouse_11", "pano11"), ("aHouse_01", "pano1"), ("cHouse_00", "pano0")):
        assert read_cameras(rows[scene_id].cameras_path).names == (f"{pano}_i0_0", f"{pano}_i1_0")


def test_houses_as_scenes(tmp_path: Path) -> None:
    made = write_release(tmp_path / "raw")
    result = prepare(config(["mpcat40"], unit="house"), tmp_path / "raw", tmp_path / "out")
    rows = {row.scene_id: row for row in Manifest.read(result.manifest)}
    assert set(rows) == {"aHouse", "bHouse", "cHouse"}
    region = made["aHouse"]
    labels = np.load(rows["aHouse"].scene_path / "pc_segment_mpcat40.npy").tolist()
    assert labels == vote(region, [class_of(c, "mpcat40") for c in region.categories])
    assert len(read_cameras(rows["aHouse"].cameras_path)) == 2 * 13


@given(st.integers(1, 6), st.lists(st.tuples(*[st.integers(0, 5)] * 3, st.integers(-1, 3)), max_size=20))
def test_the_vote_equals_a_count_per_vertex(n: int, faces: list[tuple[int, int, int, int]]) -> None:
    faces = [(a % n, b % n, c % n, label) for a, b, c, label in faces]
    region = Region(np.zeros((n, 3), np.float32), np.zeros((n, 3), np.uint8), np.array([f[:3] for f in faces]), None)  # type: ignore[arg-type]
    corners = np.array([face[:3] for face in faces], np.int64).reshape(-1, 3)
    got = vertex_majority(corners, np.array([face[3] for face in faces], np.int64), n)
    assert got.tolist() == vote(region, [face[3] for face in faces])


def test_a_face_without_a_label_counts() -> None:
    faces = np.array([[0, 1, 2], [0, 1, 3], [0, 4, 5]])
    assert vertex_majority(faces, np.array([-1, 7, 7]), 7).tolist() == [7, -1, -1, 7, 7, 7, -1]


def test_label_spaces() -> None:
    assert len(MPCAT40) == len(set(MPCAT40)) == 40
    assert SPACES["matterport21"].ids == (*SPACES["scannet20"].ids, 22)
    assert set(MATTERPORT_SPACES) <= set(SPACES)
    lists = [files("data_manifests").joinpath("splits", f"matterport3d_{s}.txt").read_text().split() for s in SPLITS]
    lists.append(files("data_manifests").joinpath("splits", "matterport3d_test.txt").read_text().split())
    assert [len(names) for names in lists] == [61, 11, 18]
    assert len({name for names in lists for name in names}) == 90


def edit(name: str, change: Callable[[dict[str, list[object]]], object]) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        data = json.loads((folder / name).read_text())
        change(data)
        (folder / name).write_text(json.dumps(data))

    return spoil


def replace(name: str, old: bytes, new: bytes) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        data = (folder / name).read_bytes()
        assert old in data
        (folder / name).write_bytes(data.replace(old, new))

    return spoil


def last_category(number: int) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        data = (folder / "region0.ply").read_bytes()
        (folder / "region0.ply").write_bytes(data[:-4] + number.to_bytes(4, "little", signed=True))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "region0.fsegs.json").unlink(), "region0.fsegs.json: no such file"),
        (lambda f: (f / "region0.semseg.json").write_text("{"), "region0.semseg.json: is not valid JSON"),
        (edit("region0.fsegs.json", lambda d: d["segIndices"].pop()), "segments for 119 faces, but the mesh has 120"),
        (edit("region0.fsegs.json", lambda d: d.update(segIndices=[[1], [2]])), "is not a list of integers"),
        (edit("region0.semseg.json", lambda d: d.update(segGroups=[{"id": 1}])), r"segGroups\[0\] is damaged"),
        (
            edit("region0.semseg.json", lambda d: d.update(segGroups=[{"id": 1, "label": "x", "segments": [4]}])),
            "names no segment of the mesh",
        ),
        (replace("region0.ply", b"category_id", b"category_no"), "its faces have no category_id"),
        (replace("region0.ply", b"property list uchar int", b"property list uchar short"), "no plain binary triangles"),
        (replace("region0.ply", b"property int segment_id\n", b"property int category_id\n"), "declares property"),
        (lambda f: (f / "region0.ply").write_bytes((f / "region0.ply").read_bytes()[:-9]), "region0.ply"),
        (lambda f: (f / "region0.ply").write_bytes(b"ply\n" * 9), "PLY header"),
        (last_category(7), "a face has category 7, but category_mapping.tsv ends at 6"),
        (last_category(2**31 - 1), "a face has category 2147483647"),
    ],
)
def test_a_damaged_region_fails_alone(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    write_release(tmp_path / "raw")
    spoil(tmp_path / "raw" / "v1" / "scans" / "bHouse" / "region_segmentations")
    errors = {o.scene_id: o.error for o in prepare(config(), tmp_path / "raw", tmp_path / "out").outcomes}
    assert [scene_id for scene_id, error in errors.items() if error] == ["bHouse_00"]
    assert "\n" not in errors["bHouse_00"]
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(errors["bHouse_00"])


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (None, "it tells which panorama was taken in which region"),
        ("P pano0 0 b 0  0 0 0  0 0 0 0 0\n", "line 1: 'b' is not the number of a region"),
        ("\x00\xff", "lists no panoramas"),
        ("P other 0 0 0  0 0 0  0 0 0 0 0\n", "no panorama was taken in this region"),
    ],
)
def test_cameras_that_cannot_be_told_apart_are_a_note(tmp_path: Path, text: str | None, note: str) -> None:
    write_release(tmp_path / "raw")
    file = tmp_path / "raw" / "v1" / "scans" / "bHouse" / "house_segmentations" / "bHouse.house"
    file.unlink() if text is None else file.write_text(text)
    result = prepare(config(), tmp_path / "raw", tmp_path / "out")
    rows = {row.scene_id: row for row in Manifest.read(result.manifest)}
    assert rows["bHouse_00"].cameras_path is None
    notes = json.loads((rows["bHouse_00"].scene_path / "scene.json").read_text())["notes"]
    assert any(note in line and "no cameras" in line for line in notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\n1\t2\n", "has no column index"),
        (table((("wall", "one", "wall", "1"),)), "line 2: nyu40id is 'one', not a number"),
        (table().replace("\n2\t", "\n7\t"), "line 3: index is '7', expected 2"),
        ("", "has no column index"),
    ],
)
def test_the_table_of_categories(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "category_mapping.tsv"
    file.write_text(text)
    with pytest.raises(SceneError, match=message):
        read_category_table(file).labels("matterport21")
    with pytest.raises(SceneError, match="no such table"):
        read_category_table(tmp_path / "none.tsv")


def test_a_label_space_that_the_release_does_not_have(tmp_path: Path) -> None:
    write_release(tmp_path / "raw")
    outcomes = prepare(config(["scannet200"]), tmp_path / "raw", tmp_path / "out").outcomes
    assert all("has no labels in scannet200, only in" in outcome.error for outcome in outcomes)
