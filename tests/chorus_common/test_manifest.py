"""Manifests: round trips, indexing, and everything that must not get out of the root."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import data_manifests
from chorus_common.camera_io import write_transforms_json
from chorus_common.cameras import CameraSet, look_at, pinhole
from chorus_common.manifest import Manifest, ManifestRow, check_name, path_digest, resolve_under
from chorus_common.runtime.config import load_config
from chorus_common.runtime.errors import ManifestError, SceneError
from chorus_common.scene_io import write_npy_folder, write_scene
from data_manifests.index import DatasetDescription, build_manifest
from tests.chorus_common.scene_files import random_scene


def cameras() -> CameraSet:
    return CameraSet(look_at(np.zeros(3), np.ones(3))[None], pinhole(8, 6, 60.0)[None], 8, 6, ("0",))


def make_rooms(root: Path) -> Path:
    """Two training rooms (one with cameras) and a validation room."""
    for i, place in enumerate(("train/b", "train/a", "val/c")):
        write_npy_folder(random_scene(5 + i, seed=i), root / place)
    write_transforms_json(cameras(), root / "train" / "a" / "transforms.json")
    return root


TOML = """
name = "rooms"
label_space = "scannet20"
cameras = "{scene}/transforms.json"
[scenes]
train = "train/*"
val = ["val/*"]
"""


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    (tmp_path / "rooms.toml").write_text(TOML)
    return tmp_path / "rooms.toml"


def test_index_write_read_select(tmp_path: Path, toml: Path) -> None:
    root = make_rooms(tmp_path / "data")
    manifest = build_manifest(toml, root)
    path = manifest.write(root / "manifest.parquet")
    found = Manifest.read(path)
    assert found == manifest
    assert [row.scene_id for row in found] == ["a", "b", "c"]
    assert [row.n_gaussians for row in found] == [6, 5, 7]
    assert [row.split for row in found.select(split="val")] == ["val"]
    assert len(found.select(split="train", dataset="rooms")) == 2
    assert found.select(dataset="other") == []
    a, b, _ = found
    assert a.cameras_path == root / "train" / "a" / "transforms.json"
    assert b.cameras_path is None
    assert (a.format, a.label_space, a.dataset) == ("npy-folder", "scannet20", "rooms")
    assert a.sha256 == path_digest(a.scene_path)


def test_same_files_give_the_same_bytes_and_may_move(tmp_path: Path, toml: Path) -> None:
    for name in ("one", "two"):
        root = make_rooms(tmp_path / name)
        build_manifest(toml, root).write(root / "manifest.parquet")
    one, two = (tmp_path / name / "manifest.parquet" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    os.rename(tmp_path / "one", tmp_path / "moved")
    moved = Manifest.read(tmp_path / "moved" / "manifest.parquet")
    assert moved.root == tmp_path / "moved"
    assert all(row.scene_path.is_dir() for row in moved)


def test_manifest_elsewhere_keeps_its_root_unless_told_otherwise(tmp_path: Path, toml: Path) -> None:
    root = make_rooms(tmp_path / "data")
    path = build_manifest(toml, root).write(tmp_path / "lists" / "m.parquet")
    assert Manifest.read(path).root == root
    assert Manifest.read(path, root=tmp_path / "other").rows[0].scene_path == tmp_path / "other" / "train" / "a"


def test_bare_folders(tmp_path: Path) -> None:
    root = make_rooms(tmp_path / "my data")
    manifest = build_manifest(root)
    assert {(row.dataset, row.split, row.scene_id) for row in manifest} == {
        ("my-data", "train", "a"), ("my-data", "train", "b"), ("my-data", "val", "c"),
    }  # fmt: skip
    assert manifest.rows[0].cameras_path is not None
    flat = tmp_path / "flat"
    write_scene(random_scene(3), flat / "x[1].ply")
    write_scene(random_scene(3), flat / "y.ply")
    (flat / "notes.txt").write_text("not a scene")
    assert [row.scene_id for row in build_manifest(flat)] == ["x-1", "y"]  # made plain; the path keeps the name
    (flat / "x[1].ply").write_bytes(b"ply\ncut")
    skipped: list[str] = []
    assert [row.scene_id for row in build_manifest(flat, skipped=skipped)] == ["y"]
    assert len(skipped) == 1


def test_ids_from_a_folder_of_the_pattern(tmp_path: Path) -> None:
    for name in ("garden", "attic"):
        write_scene(random_scene(3), tmp_path / name / "point_cloud" / "iteration_30000" / "point_cloud.ply")
        write_transforms_json(cameras(), tmp_path / name / "transforms.json")
    (tmp_path / "d.toml").write_text(
        'name = "d"\ncameras = ["{scene_id}/sparse/0", "{scene_id}/transforms.json"]\n[scenes]\n'
        'train = "{scene_id}/point_cloud/iteration_*/point_cloud.ply"\n'
    )
    rows = build_manifest(tmp_path / "d.toml", tmp_path).rows
    assert [row.scene_id for row in rows] == ["attic", "garden"]
    assert all(row.cameras_path is not None and row.cameras_path.parent.name == row.scene_id for row in rows)


def test_split_lists(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in "abcd":
        write_npy_folder(random_scene(3), root / "scenes" / name)
    (tmp_path / "train.txt").write_text("a\r\n# a comment\nc\n\n")
    (tmp_path / "val.txt").write_text("b\n")
    toml = tmp_path / "d.toml"
    toml.write_text(
        'name = "d"\n[scenes]\ntrain = "scenes/*"\nval = "scenes/*"\n'
        '[split_lists]\ntrain = "train.txt"\nval = "val.txt"\n'
    )
    assert [(row.split, row.scene_id) for row in build_manifest(toml, root)] == [
        ("train", "a"),
        ("train", "c"),
        ("val", "b"),
    ]
    (tmp_path / "val.txt").write_text("b\nz\n")
    with pytest.raises(ManifestError, match="1 listed scenes of split val are not there, first z"):
        build_manifest(toml, root)
    (tmp_path / "val.txt").write_text("a\n")
    with pytest.raises(ManifestError, match="scene id a is already taken"):
        build_manifest(toml, root)


def test_bad_scenes_stop_the_index_or_are_named(tmp_path: Path, toml: Path) -> None:
    root = make_rooms(tmp_path / "data")
    (root / "train" / "b" / "coord.npy").write_bytes(b"broken")
    with pytest.raises(SceneError, match=r"b/coord.npy: not a .npy array"):
        build_manifest(toml, root)
    skipped: list[str] = []
    assert [row.scene_id for row in build_manifest(toml, root, skipped=skipped)] == ["a", "c"]
    assert len(skipped) == 1
    assert "b/coord.npy" in skipped[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("train/*", "../*"), "must be relative"),
        (("train/*", "/etc/*"), "must be relative"),
        (("train/*", "**/*"), "must be relative"),
        (("{scene}/transforms.json", "../../{scene}"), r"must be relative, without '..'"),
        (('"rooms"', '"a/b"'), "name 'a/b' may hold only"),
        (("[scenes]", '[scenes]\n".x" = "val/*"'), "split '.x' may hold only"),
        (("[scenes]", 'format = "obj"\n[scenes]'), "unknown format 'obj'"),
        (("[scenes]", 'format = "splat"\n[scenes]'), "is npy-folder, but the description says splat"),
        (("[scenes]", 'split_lists = {best = "a.txt"}\n[scenes]'), "split_lists names best"),
        (("[scenes]", 'split_lists = {val = "../a.txt"}\n[scenes]'), "must be relative"),
        (("[scenes]", 'split_lists = {val = "a.txt"}\n[scenes]'), "cannot read the list"),
        (('train = "train/*"\nval = ["val/*"]', 'train = "nothing/*"'), "no scenes found"),
    ],
)
def test_bad_descriptions(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    root = make_rooms(tmp_path / "data")
    assert change[0] in TOML
    (tmp_path / "d.toml").write_text(TOML.replace(*change))
    with pytest.raises(ManifestError, match=message) as caught:
        build_manifest(tmp_path / "d.toml", root)
    assert "\n" not in str(caught.value)


def test_a_description_needs_its_root(tmp_path: Path, toml: Path) -> None:
    with pytest.raises(ManifestError, match="give --root"):
        build_manifest(toml)
    with pytest.raises(ManifestError, match="no such folder"):
        build_manifest(toml, tmp_path / "nothing")


# ---- what leaves the root --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a/..", "a\\..\\b", "a\0b", "out/x", "loop"])
def test_paths_that_leave_the_root(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(ManifestError):
        resolve_under(root, path)


def test_links_inside_the_root_are_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert resolve_under(tmp_path, "link/scene.ply") == tmp_path / "link" / "scene.ply"


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_path_gets_out(a: str, b: str) -> None:
    root = Path("/nowhere/root")
    for relative in (a, f"{a}/{b}", f"{a}/../{b}", f"../{a}"):
        try:
            path = resolve_under(root, relative)
        except ManifestError:
            continue
        assert Path(os.path.normpath(path)).is_relative_to(root)


def test_a_linked_scene_outside_is_not_indexed(tmp_path: Path, toml: Path) -> None:
    write_npy_folder(random_scene(3), tmp_path / "elsewhere")
    root = make_rooms(tmp_path / "data")
    (root / "train" / "z").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ManifestError, match=r"'train/z' leads out of"):
        build_manifest(toml, root)


@pytest.mark.parametrize("name", ["", ".", "..", ".tmp-x", "a b", "a/b", "é", "x" * 129, "a\n"])
def test_names_that_are_no_folder_names(name: str) -> None:
    with pytest.raises(ManifestError):
        check_name(name, "scene id")


@pytest.mark.parametrize("name", ["scene0000_00", "a.b-c", "X" * 128, "-", "0"])
def test_names_that_are(name: str) -> None:
    assert check_name(name, "scene id") == name


def rewrite(path: Path, column: str, value: object) -> None:
    """Change the first row's value behind the writer's back."""
    table = pq.read_table(path)
    values = [value, *table.column(column).to_pylist()[1:]]
    i = table.schema.get_field_index(column)
    pq.write_table(table.set_column(i, table.schema.field(i), [pa.array(values, table.schema.field(i).type)]), path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("scene_path", "../../etc", "row 0: path '../../etc' must be relative"),
        ("scene_path", "/etc", "must be relative"),
        ("cameras_path", "../x", "must be relative"),
        ("scene_id", ".tmp-1", "row 0: scene id '.tmp-1' may hold only"),
        ("dataset", "a/b", "row 0: data set 'a/b' may hold only"),
        ("split", "", "row 0: split '' may hold only"),
        ("scene_id", "b", "scene rooms/b is listed twice"),
        ("sha256", "xyz", "sha256 or n_gaussians is damaged"),
        ("n_gaussians", 0, "sha256 or n_gaussians is damaged"),
    ],
)
def test_hostile_rows(tmp_path: Path, toml: Path, column: str, value: object, message: str) -> None:
    root = make_rooms(tmp_path / "data")
    path = build_manifest(toml, root).write(tmp_path / "m.parquet")
    rewrite(path, column, value)
    with pytest.raises(ManifestError, match=rf"m.parquet: .*{message}"):
        Manifest.read(path)


def test_damaged_and_foreign_tables(tmp_path: Path, toml: Path) -> None:
    root = make_rooms(tmp_path / "data")
    path = build_manifest(toml, root).write(tmp_path / "m.parquet")
    data = path.read_bytes()
    for cut in range(0, len(data), 97):
        path.write_bytes(data[:cut])
        with pytest.raises(ManifestError, match=r"m.parquet: not a readable Parquet file"):
            Manifest.read(path)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(ManifestError, match="manifest version missing"):
        Manifest.read(path)
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"chorus_manifest_version": "3"}), path)
    with pytest.raises(ManifestError, match="its columns differ"):
        Manifest.read(path)
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"chorus_manifest_version": "99"}), path)
    with pytest.raises(ManifestError, match="manifest version 99, this program reads 3"):
        Manifest.read(path)
    with pytest.raises(ManifestError, match="no such manifest"):
        Manifest.read(tmp_path / "nothing.parquet")


def test_rows_outside_the_root_are_not_written(tmp_path: Path) -> None:
    row = ManifestRow("d", "s", "all", "inria-ply", tmp_path / "elsewhere" / "s.ply", None, "", 3, "0" * 64)
    with pytest.raises(ManifestError, match="does not lie in the root"):
        Manifest(tmp_path / "root", (row,)).write(tmp_path / "m.parquet")
    inside = replace(row, scene_path=tmp_path / "root" / "s.ply")
    with pytest.raises(ManifestError, match="listed twice"):
        Manifest(tmp_path / "root", (inside, inside)).write(tmp_path / "m.parquet")
    assert not (tmp_path / "m.parquet").exists()


# ---- digests ---------------------------------------------------------------------------------------------------------


def test_digest_sees_names_sizes_and_bytes(tmp_path: Path) -> None:
    def folder(**files: bytes) -> str:
        path = tmp_path / "x"
        path.mkdir()
        for name in reversed(files):
            (path / name).write_bytes(files[name])
        digest = path_digest(path)
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
        return digest

    base = folder(a=b"12", b=b"3")
    assert folder(b=b"3", a=b"12") == base
    assert len({base, folder(a=b"1", b=b"23"), folder(a=b"12", c=b"3"), folder(a=b"12", b=b"4"), folder(a=b"12")}) == 5
    assert folder(**{"a": b"12", "b": b"3", ".tmp-1": b"z"}) == base


# ---- the descriptions that come with the program ---------------------------------------------------------------------


def test_descriptions_that_come_with_the_program() -> None:
    files = sorted(Path(data_manifests.__file__).parent.glob("*.toml"))
    assert len(files) >= 5
    names = [load_config(DatasetDescription, file).name for file in files]
    assert len(set(names)) == len(names)


def test_the_ply_folder_description_finds_both_layouts(tmp_path: Path) -> None:
    write_scene(random_scene(3), tmp_path / "loose.ply")
    write_scene(random_scene(3), tmp_path / "room" / "point_cloud" / "iteration_30000" / "point_cloud.ply")
    rows = build_manifest(Path(data_manifests.__file__).parent / "ply_folder.toml", tmp_path).rows
    assert [row.scene_id for row in rows] == ["loose", "room"]
