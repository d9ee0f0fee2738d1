"""Folders as users have them: awkward names, outputs of training, cameras beside scenes, streamed and large scenes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from chorus_common.camera_io import read_cameras, write_transforms_json
from chorus_common.manifest import Manifest, check_name, plain_name
from chorus_common.runtime.errors import SceneError
from chorus_common.scene_io import read_scene, write_npy_folder, write_scene
from data_manifests.index import build_manifest
from tests.chorus_common.scene_files import random_scene, write_inria, write_spz
from tests.chorus_common.test_camera_io import cameras, colmap_bin, inria_entries

FILES = Path(__file__).parents[1] / "data" / "formats"


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("scene0000_00", "scene0000_00"), ("Living Room (1)", "Living-Room-1"), ("küche", "kuche"),
        ("ku\u0308che", "kuche"), ("a/b", "a-b"), (".hidden", "hidden"), ("日本", "scene"), ("x" * 300, "x" * 128),
        ("", "scene"), ("a\nb", "a-b"),
    ],
)  # fmt: skip
def test_plain_names(name: str, plain: str) -> None:
    assert plain_name(name) == plain
    assert check_name(plain_name(name), "id") == plain


def test_awkward_names_get_plain_ids_and_keep_their_files(tmp_path: Path) -> None:
    names = ("Living Room (1)", "Living Room [1]", "küche", "plain")
    (tmp_path / "my scans").mkdir()
    for i, name in enumerate(names):
        write_inria(tmp_path / "my scans" / f"{name}.ply", random_scene(3 + i))
    manifest = build_manifest(tmp_path / "my scans")
    assert [row.scene_id for row in manifest] == ["Living-Room-1", "Living-Room-1-2", "kuche", "plain"]
    assert {row.scene_path.stem for row in manifest} == set(names)
    assert {row.dataset for row in manifest} == {"my-scans"}
    path = manifest.write(tmp_path / "m.parquet")
    assert Manifest.read(path).rows == manifest.rows
    assert [len(read_scene(row.scene_path, lod=row.lod, max_gaussians=row.max_gaussians)) for row in manifest] == [
        3,
        4,
        5,
        6,
    ]


def trained(folder: Path, n: int) -> None:
    for iteration in (7000, 30000):
        write_scene(random_scene(n), folder / "point_cloud" / f"iteration_{iteration}" / "point_cloud.ply")
    (folder / "cameras.json").write_text(json.dumps(inria_entries(cameras(3))))
    write_scene(random_scene(2), folder / "input.ply")


def test_outputs_of_training_and_their_cameras(tmp_path: Path) -> None:
    for name in ("garden", "attic"):
        trained(tmp_path / "outputs" / name, 5)
    manifest = build_manifest(tmp_path / "outputs")
    assert [row.scene_id for row in manifest] == ["attic", "garden"]
    for row in manifest:
        assert row.scene_path.parent.name == "iteration_30000"
        assert row.cameras_path is not None
        assert read_cameras(row.cameras_path).names == cameras(3).names
    (one,) = build_manifest(tmp_path / "outputs" / "garden")
    assert (one.scene_id, one.cameras_path is not None) == ("garden", True)


@pytest.mark.parametrize("place", ["cameras.json", "room.cameras.json", "room/cameras.json"])
def test_cameras_beside_a_scene(tmp_path: Path, place: str) -> None:
    write_inria(tmp_path / "room.ply", random_scene(3))
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text(json.dumps(inria_entries(cameras(2))))
    (row,) = build_manifest(tmp_path)
    assert row.cameras_path == tmp_path / place


def test_colmap_beside_the_only_scene_and_not_beside_several(tmp_path: Path) -> None:
    write_inria(tmp_path / "room.ply", random_scene(3))
    colmap_bin(tmp_path / "dense" / "0" / "sparse", cameras(2))
    (row,) = build_manifest(tmp_path)
    assert row.cameras_path == tmp_path / "dense" / "0" / "sparse"
    write_transforms_json(cameras(1), tmp_path / "transforms.json")
    write_inria(tmp_path / "other.ply", random_scene(3))
    assert [row.cameras_path for row in build_manifest(tmp_path)] == [None, None]


def test_every_format_in_one_folder(tmp_path: Path) -> None:
    for name in ("source.sog", "source.glb", "level0.ksplat"):
        shutil.copy(FILES / name, tmp_path / name.replace("source", name[-3:]))
    for name in ("folder", "lod"):
        shutil.copytree(FILES / name, tmp_path / name)
    write_npy_folder(random_scene(4), tmp_path / "arrays")
    write_spz(tmp_path / "a.spz", random_scene(5), 3, flags=1)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "meta.json").write_text("{}")
    rows = {row.scene_id: row for row in build_manifest(tmp_path)}
    assert {name: row.format for name, row in rows.items()} == {
        "a": "spz", "arrays": "npy-folder", "folder": "sog", "glb": "gltf", "level0": "ksplat", "lod": "sog-lod",
        "sog": "sog",
    }  # fmt: skip
    assert rows["a"].render_mode == "antialiased"
    assert rows["sog"].render_mode == "classic"


def test_levels_and_large_scenes(tmp_path: Path) -> None:
    shutil.copytree(FILES / "lod", tmp_path / "lod")
    (row,) = build_manifest(tmp_path, lod=1)
    assert (row.lod, row.n_gaussians) == (1, 100)
    assert len(read_scene(row.scene_path, lod=row.lod, max_gaussians=row.max_gaussians)) == 100
    with pytest.raises(SceneError, match="declares 300 Gaussians, more than the limit of 299"):
        build_manifest(tmp_path, max_gaussians=299)
    assert build_manifest(tmp_path, max_gaussians=300).rows[0].n_gaussians == 300
