"""ScanNet's release: vertices, labels in both spaces and instances equal the truth; damage gives one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from chorus_common.labels import SPACES
from chorus_common.manifest import Manifest
from chorus_common.runtime.errors import ManifestError
from chorus_common.scene_io import read_scene
from data_manifests.datasets.mesh import vertex_normals
from data_manifests.datasets.prepare import prepare
from data_manifests.datasets.settings import PrepareConfig
from data_manifests.synthetic.categories import CATEGORIES
from data_manifests.synthetic.dataset import SynthConfig, plan_jobs, write_dataset
from data_manifests.synthetic.mesh import tessellate
from data_manifests.synthetic.options import RoomOptions
from data_manifests.synthetic.room import generate_room
from tests.data_manifests.release_makers import Scan, scan_truth, tiny_scan, write_scan, write_scannet_release

SPACES_BOTH = ["scannet20", "scannet200"]


def config(**changes: object) -> PrepareConfig:
    release = {"layout": "scannet"} | dict(changes.pop("release", {}))  # type: ignore[call-overload]
    return PrepareConfig.model_validate({"name": "scannet", "label_spaces": SPACES_BOTH, "release": release} | changes)


def load(folder: Path, *keys: str) -> list[np.ndarray]:
    return [np.load(folder / f"{key}.npy") for key in keys]


def test_rooms_written_as_scannet_come_back_as_the_generator_made_them(tmp_path: Path) -> None:
    options = SynthConfig(layout="scannet", room=RoomOptions(gaussians=2_000, views=2), mesh_step=0.12)
    counts = {"train": 1, "val": 0, "test": 1}
    list(write_dataset(tmp_path / "raw", options, counts))
    result = prepare(config(), tmp_path / "raw", tmp_path / "out")
    assert [outcome.error for outcome in result.outcomes] == [""] * 2
    rows = {row.scene_id: row for row in Manifest.read(result.manifest)}
    for job in plan_jobs(options, counts):
        row, room = rows[job.scene_id], generate_room(job.seed, job.options)
        mesh = tessellate(room.model, 0.12)
        coord, color, pc_coord = load(row.scene_path, "coord", "color", "pc_coord")
        np.testing.assert_array_equal(pc_coord, mesh.vertices.astype(np.float32))
        np.testing.assert_array_equal(coord, pc_coord)
        np.testing.assert_array_equal(color, np.rint(mesh.colors * 255))
        assert row.split == job.split
        assert row.n_gaussians == len(mesh.vertices)
        assert row.cameras_path is not None
        if job.split == "test":
            assert row.label_space == ""
            assert not list(row.scene_path.glob("*segment*"))
            continue
        assert row.label_space == "scannet20"
        of_instance = {info.id: CATEGORIES[info.category] for info in room.instances}
        many = [SPACES["scannet200"].from_ids(np.array([of_instance[i].id]))[0] for i in mesh.instances.tolist()]
        for prefix in ("", "pc_"):
            twenty, two_hundred, instance = load(
                row.scene_path, *(f"{prefix}{k}" for k in ("segment20", "segment200", "instance"))
            )
            np.testing.assert_array_equal(twenty, mesh.labels)
            np.testing.assert_array_equal(two_hundred, many)
            pairs = set(zip(instance.tolist(), mesh.instances.tolist()))
            assert len(pairs) == len(set(mesh.instances.tolist())) == len(set(instance.tolist()))


def test_every_vertex_gets_the_class_and_the_object_of_its_segment(tmp_path: Path) -> None:
    scans = write_scannet_release(tmp_path / "raw", train=3, val=0)
    result = prepare(config(), tmp_path / "raw", tmp_path / "out")
    raw_to = {
        "scannet20": {"wall": "wall", "chair": "chair", "office chair": "chair"},
        "scannet200": {"wall": "wall", "chair": "chair", "office chair": "office chair", "potted plant": ""},
    }
    for outcome in result.outcomes:
        scan = scans[outcome.scene_id]
        position, instance = scan_truth(scan)
        folder = tmp_path / "out" / "scannet" / outcome.scene_id
        np.testing.assert_array_equal(load(folder, "pc_instance")[0], instance)
        for space, names in raw_to.items():
            classes = SPACES[space].names
            of_object = [classes.index(names[raw]) if names.get(raw) else -1 for _, raw, _ in scan.objects] + [-1]
            if space == "scannet200":
                of_object[3] = SPACES[space].ids.index(1189) if 1189 in SPACES[space].ids else -1
            expected = np.array(of_object)[position]
            np.testing.assert_array_equal(load(folder, f"pc_{SPACES[space].file}")[0], expected)
            counts = outcome.summary["point_labels"][space]
            assert counts["labelled"] == np.count_nonzero(expected >= 0)
            assert counts["unannotated"] == np.count_nonzero(position < 0)
            assert counts["outside"] == np.count_nonzero((expected < 0) & (position >= 0))
        assert outcome.summary["point_labels"]["instances"] == len(set(instance.tolist()) - {-1})


def test_label_spaces_are_read_by_name(tmp_path: Path) -> None:
    write_scannet_release(tmp_path / "raw", train=1, val=0)
    prepare(config(), tmp_path / "raw", tmp_path / "out")
    folder = tmp_path / "out" / "scannet" / "scene0000_00"
    for space in SPACES_BOTH:
        scene = read_scene(folder, label_space=space)
        assert scene.label_space == space
        np.testing.assert_array_equal(scene.labels, load(folder, SPACES[space].file)[0])
    assert read_scene(folder, label_space="s3dis13").labels is None


def test_normals_are_area_weighted(tmp_path: Path) -> None:
    scan = tiny_scan(3)
    normals = vertex_normals(scan.vertices, scan.faces)
    for vertex in range(len(scan.vertices)):
        total = np.zeros(3)
        for face in scan.faces[(scan.faces == vertex).any(1)].tolist():
            a, b, c = scan.vertices[face].astype(np.float64)
            total += np.cross(b - a, c - a) * face.count(vertex)
        expected = total / np.linalg.norm(total) if np.linalg.norm(total) > 0 else np.array([0.0, 0.0, 1.0])
        np.testing.assert_allclose(normals[vertex], expected, atol=1e-6)
    write_scannet_release(tmp_path / "raw", train=1, val=0)
    prepare(config(), tmp_path / "raw", tmp_path / "out")
    first = tiny_scan(0)
    np.testing.assert_array_equal(
        load(tmp_path / "out" / "scannet" / "scene0000_00", "normal")[0], vertex_normals(first.vertices, first.faces)
    )


def _edit(file: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def edit(scan: Path) -> None:
        path = scan / f"{scan.name}{file}"
        data = json.loads(path.read_text())
        changed = change(data)
        data = changed if isinstance(changed, dict) else data
        path.write_text(json.dumps(data))

    return edit


def _remove(file: str) -> Callable[[Path], None]:
    return lambda scan: (scan / f"{scan.name}{file}").unlink()


def _cut(file: str, keep: float) -> Callable[[Path], None]:
    def cut(scan: Path) -> None:
        path = scan / f"{scan.name}{file}"
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * keep)])

    return cut


def _not_a_number(scan: Path) -> None:
    path = scan / f"{scan.name}_vh_clean_2.ply"
    data = bytearray(path.read_bytes())
    start = data.index(b"end_header\n") + len(b"end_header\n") + 5 * 16
    data[start : start + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(bytes(data))


MESH, SEGS, OBJECTS = "_vh_clean_2.ply", "_vh_clean_2.0.010000.segs.json", ".aggregation.json"

DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no mesh": (_remove(MESH), "no such mesh"),
    "no segments": (_remove(SEGS), "no such file"),
    "no objects": (_remove(OBJECTS), "aggregation.json: no such file"),
    "short mesh": (_cut(MESH, 0.3), "truncated"),
    "short faces": (_cut(MESH, 0.9), "element face declares"),
    "short json": (_cut(OBJECTS, 0.5), "not valid JSON"),
    "other length": (_edit(SEGS, lambda d: d["segIndices"].pop()), "segments for 79 vertices, but the mesh has 80"),
    "text segments": (_edit(SEGS, lambda d: {"segIndices": ["a"] * 80}), "not a list of integers"),
    "no list": (_edit(SEGS, lambda d: {"segments": []}), "has no list segIndices"),
    "unknown label": (_edit(OBJECTS, lambda d: d["segGroups"][0].update(label="gizmo")), "'gizmo' is not in"),
    "object twice": (_edit(OBJECTS, lambda d: d["segGroups"].append(d["segGroups"][0])), "the same objectId"),
    "odd object": (_edit(OBJECTS, lambda d: d["segGroups"][1].pop("segments")), r"segGroups\[1\] is damaged"),
    "other scan": (
        _edit(OBJECTS, lambda d: [g.update(segments=[999]) for g in d["segGroups"]] and None),
        "names no segment of the mesh",
    ),
    "not a number": (_not_a_number, "not finite at row 5"),
}


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_damaged_scan_fails_alone_with_one_line(tmp_path: Path, damage: str) -> None:
    write_scannet_release(tmp_path / "raw", train=2, val=1)
    change, message = DAMAGES[damage]
    change(tmp_path / "raw" / "scans" / "scene0001_00")
    result = prepare(config(), tmp_path / "raw", tmp_path / "out")
    errors = {outcome.scene_id: outcome.error for outcome in result.outcomes}
    assert errors.pop("scene0001_00").count("\n") == 0
    assert set(errors.values()) == {""}
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(next(o.error for o in result.outcomes if o.error))
    assert "scene0001_00" in next(o.error for o in result.outcomes if o.error)
    assert [row.scene_id for row in Manifest.read(result.manifest)] == ["scene0000_00", "scene0002_00"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"pose/.keep": ""}, "no cameras: intrinsic/intrinsic_depth.txt: no such file"),
        ({"pose/0.txt": "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"}, "no cameras: intrinsic/intrinsic_depth.txt: no such file"),
        (
            {"pose/.keep": "", "intrinsic/intrinsic_color.txt": "1170 0 648 0 1170 484 0 0 1"},
            "no cameras: pose: holds no pose files",
        ),
    ],
)
def test_cameras_that_are_missing_cost_no_points_and_no_labels(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    write_scannet_release(tmp_path / "raw", train=1, val=0)
    for name, text in files.items():
        file = tmp_path / "raw" / "scans" / "scene0000_00" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    result = prepare(config(), tmp_path / "raw", tmp_path / "out")
    assert result.outcomes[0].error == ""
    assert any(note.startswith(message) for note in result.outcomes[0].summary["notes"])
    (row,) = Manifest.read(result.manifest)
    assert row.cameras_path is None
    assert row.label_space == "scannet20"


def test_unknown_categories_may_be_read_as_unlabelled(tmp_path: Path) -> None:
    scans = write_scannet_release(tmp_path / "raw", train=1, val=0)
    DAMAGES["unknown label"][0](tmp_path / "raw" / "scans" / "scene0000_00")
    result = prepare(config(release={"unknown_category": "ignore"}), tmp_path / "raw", tmp_path / "out")
    assert "'gizmo'" in result.outcomes[0].summary["notes"][0]
    labels = load(tmp_path / "out" / "scannet" / "scene0000_00", "segment20")[0]
    assert (labels[scans["scene0000_00"].segments == 5] == -1).all()
    assert (labels[scans["scene0000_00"].segments == 15] == 4).all()


def test_the_later_of_two_objects_owns_a_shared_segment(tmp_path: Path) -> None:
    scan = tiny_scan(0)
    shared = Scan(scan.vertices, scan.colors, scan.faces, scan.segments,
                  ((0, "wall", (5, 15)), (1, "chair", (15, 25, 1000))))  # fmt: skip
    write_scannet_release(tmp_path / "raw", train=0, val=1)
    folder = tmp_path / "raw" / "scans" / "scene0001_00"
    write_scan(folder, shared)
    (tmp_path / "raw" / "scannetv2_train.txt").write_text("scene0001_00\n")
    result = prepare(config(splits=["train"]), tmp_path / "raw", tmp_path / "out")
    assert result.outcomes[0].summary["notes"] == [
        "1 segments of objects are not in the mesh", "1 segments belong to two objects; the later one owns them",
    ]  # fmt: skip
    instance = load(tmp_path / "out" / "scannet" / "scene0001_00", "pc_instance")[0]
    np.testing.assert_array_equal(instance, scan_truth(shared)[1])


def test_which_scans_are_there_and_which_are_not_is_said(tmp_path: Path) -> None:
    write_scannet_release(tmp_path / "raw", train=2, val=1)
    (tmp_path / "raw" / "scannetv2_train.txt").write_text("scene0000_00\nscene5000_00\nscene5001_00\n")
    result = prepare(config(), tmp_path / "raw", tmp_path / "out")
    assert [o.scene_id for o in result.outcomes] == ["scene0000_00", "scene0002_00"]
    assert any("scans: 1 scans are in no split list, first scene0001_00" in note for note in result.notes)
    assert any("listed scene scene5000_00 and 1 more" in note for note in result.notes)


def test_without_lists_of_its_own_a_release_is_split_by_the_official_ones(tmp_path: Path) -> None:
    write_scannet_release(tmp_path / "raw", train=1, val=0)
    for split in ("train", "val", "test"):
        (tmp_path / "raw" / f"scannetv2_{split}.txt").unlink()
    write_scan(tmp_path / "raw" / "scans" / "scene0011_00", tiny_scan(9))
    result = prepare(config(), tmp_path / "raw", tmp_path / "out")
    assert {o.scene_id: o.split for o in result.outcomes} == {"scene0000_00": "train", "scene0011_00": "val"}


@pytest.mark.parametrize(
    ("release", "message"),
    [
        ({"split_lists": {"train": "nowhere.txt"}}, "nowhere.txt: no such split list"),
        ({"split_lists": {"train": ["scene0000_00"], "val": ["scene0000_00"]}}, "in the lists of both train and val"),
        ({"split_lists": {"train": ["scene0000_00"]}}, "split val has no list"),
        ({"split_lists": {"train": [], "val": ["a"], "test": ["b"]}}, "no scenes of layout scannet"),
    ],
)
def test_bad_split_lists_give_one_line(tmp_path: Path, release: dict[str, object], message: str) -> None:
    write_scannet_release(tmp_path / "raw", train=1, val=0)
    with pytest.raises(ManifestError, match=message):
        prepare(config(release=release), tmp_path / "raw", tmp_path / "out")
