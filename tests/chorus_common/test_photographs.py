"""Photographs of posed views: found in every layout, brought to any pinhole, refused in a line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from chorus_common.camera_io import read_cameras
from chorus_common.camera_io.lens import named_lens
from chorus_common.camera_io.view_list import find_view_list, listed_views, read_view_list
from chorus_common.cameras import CameraSet, look_at
from chorus_common.captures.photographs import read_photographs
from chorus_common.captures.resample import resample_color
from chorus_common.captures.undistort import undistort
from chorus_common.runtime.errors import SceneError
from tests.chorus_common.capture_layouts import LAYOUTS, colmap, nerfstudio, save, write_colmap

K = np.array([[40.0, 0, 23.0], [0, 41.0, 19.0], [0, 0, 1]])


def views(count: int = 4) -> CameraSet:
    poses = np.stack([look_at(np.array([3.0, i, 1.0]), np.zeros(3)) for i in range(count)])
    return CameraSet(poses, np.stack([K] * count), 48, 36, tuple(f"v{i}" for i in range(count)))


def pictures(count: int = 4, height: int = 36, width: int = 48) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_its_cameras_and_pictures(tmp_path: Path, layout: str) -> None:
    cameras, taken = views(), pictures()
    where = LAYOUTS[layout](tmp_path / "scan", cameras, taken)
    found = read_cameras(where)
    np.testing.assert_allclose(found.viewmats, cameras.viewmats, atol=1e-6)
    np.testing.assert_allclose(found.intrinsics, cameras.intrinsics, atol=1e-9)
    assert found.sizes == cameras.sizes
    photographs = read_photographs(where)
    assert set(photographs.paths) == set(found.names)
    for name, intrinsics, picture in zip(found.names, found.intrinsics, taken):
        color, known = photographs.picture(name, intrinsics, 48, 36)
        assert known.all()
        np.testing.assert_array_equal(np.rint(color * 255).astype(np.uint8), picture)


def test_a_picture_is_averaged_to_another_pinhole(tmp_path: Path) -> None:
    photographs = read_photographs(nerfstudio(tmp_path, views(), pictures()))
    target = K * np.array([[0.5], [0.5], [1.0]])
    color, known = photographs.picture("v2", target, 24, 18)
    expected, there = resample_color(pictures()[2], K, target, 24, 18)
    np.testing.assert_allclose(color, expected)
    np.testing.assert_array_equal(known, there)


def test_pictures_that_were_shrunk_after_calibration(tmp_path: Path) -> None:
    small = pictures(4, 18, 24)
    photographs = read_photographs(nerfstudio(tmp_path, views(), small))
    color, known = photographs.picture("v1", K * np.array([[0.5], [0.5], [1.0]]), 24, 18)
    assert known.all()
    np.testing.assert_array_equal(np.rint(color * 255), small[1])
    save(tmp_path / "images" / "v1.png", pictures(1, 48, 36)[0])
    with pytest.raises(SceneError, match=r"v1.png: is 36x48, its camera 48x36; is it turned"):
        photographs.picture("v1", K, 48, 36)


def test_a_bent_picture_is_straightened_first(tmp_path: Path) -> None:
    cameras, taken = views(1), pictures(1)
    write_colmap(tmp_path / "sparse", cameras, ["a.png"], "OPENCV_FISHEYE", "0.1 -0.02 0.003 0")
    save(tmp_path / "images" / "a.png", taken[0])
    color, known = read_photographs(tmp_path).picture("a.png", K, 48, 36)
    straight, there = undistort(taken[0], K, named_lens({"k1": 0.1, "k2": -0.02, "k3": 0.003}, fisheye=True))
    np.testing.assert_array_equal(known, there)
    np.testing.assert_allclose(color, straight, atol=1e-6)


def test_pictures_whose_lens_was_undone_are_not_taken_for_bent_ones(tmp_path: Path) -> None:
    cameras, taken = views(2), pictures(2)
    write_colmap(tmp_path / "dslr" / "colmap", cameras, ["a.png", "b.png"], "OPENCV_FISHEYE", "0.1 0 0 0")
    for name, picture in zip("ab", taken):
        save(tmp_path / "dslr" / "resized_undistorted_images" / f"{name}.png", picture)
    with pytest.raises(SceneError, match="holds no picture of the 2 views"):
        read_photographs(tmp_path)
    write_colmap(tmp_path / "dslr" / "colmap", cameras, ["a.png", "b.png"])
    assert len(read_photographs(tmp_path).paths) == 2


def test_pictures_are_found_by_folder_and_name(tmp_path: Path) -> None:
    where = colmap(tmp_path, views(), pictures())
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(SceneError, match=r"holds no picture of the 4 views \(first: v0.png\); photo_folder says"):
        read_photographs(where)
    assert len(read_photographs(where, "../../elsewhere").paths) == 4
    (tmp_path / "elsewhere").rename(tmp_path / "color")
    (tmp_path / "color" / "v0.png").rename(tmp_path / "color" / "v0.JPG")  # of another suffix than the model says
    assert read_photographs(where).paths["v0.png"].name == "v0.JPG"
    (tmp_path / "color" / "v3.png").unlink()
    photographs = read_photographs(where)
    assert set(photographs.paths) == {"v0.png", "v1.png", "v2.png"}
    with pytest.raises(SceneError, match=r"v3.png: no such picture"):
        photographs.picture("v3.png", K, 48, 36)
    damaged = tmp_path / "color" / "v1.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(SceneError, match=r"v1.png: the picture is damaged"):
        photographs.picture("v1.png", K, 48, 36)


def test_the_digest_follows_files_and_lenses(tmp_path: Path) -> None:
    where = nerfstudio(tmp_path, views(), pictures())
    first = read_photographs(where).digest(["v0", "v1"])
    assert read_photographs(where).digest(["v0", "v1"]) == first
    assert read_photographs(where).digest(["v0", "v2"]) != first
    with open(tmp_path / "images" / "v1.png", "ab") as handle:
        handle.write(b"\0")
    assert read_photographs(where).digest(["v0", "v1"]) != first
    data = json.loads((tmp_path / "transforms.json").read_text())
    second = read_photographs(where).digest(["v0"])
    (tmp_path / "transforms.json").write_text(json.dumps(data | {"k1": 0.1}))
    assert read_photographs(where).digest(["v0"]) != second


@pytest.mark.parametrize(
    "content",
    [
        {"frames_list": ["v3.jpg", "images/v1.png"]},
        {"frames": [{"file_path": "v1.png", "is_bad": False}, {"file_path": "x/v3.JPG"}]},
        ["v1", "v3"],
    ],
)
def test_view_lists(tmp_path: Path, content: object) -> None:
    scan = tmp_path / "scan"
    (scan / "dslr" / "nerfstudio").mkdir(parents=True)
    (scan / "dslr" / "colmap").mkdir()
    for place in (scan / "lang_feat_selected_imgs.json", scan / "dslr" / "nerfstudio" / "lang_feat_selected_imgs.json"):
        place.write_text(json.dumps(content))
        assert find_view_list(scan) == place
        assert find_view_list(scan / "dslr" / "colmap") == place
        assert listed_views(views(), place).names == ("v1", "v3")
        place.unlink()
    assert find_view_list(scan) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [({}, "lists no views"), ([], "lists no views"), ([1], "names no picture"), (["a"], "names none of the 4 views")],
)
def test_bad_view_lists(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps(content))
    with pytest.raises(SceneError, match=message):
        listed_views(views(), path)
    path.write_text("{")
    with pytest.raises(SceneError, match="not valid JSON"):
        read_view_list(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no scans"),
        ("scan a b 1 2", "a scan takes two pictures"),
        ("intrinsics_matrix 1 0 0 0 1 0 0 0", "holds 8 numbers, expected 9"),
        ("intrinsics_matrix -1 0 0 0 1 0 0 0 1", "is not an intrinsic matrix"),
        ("intrinsics_matrix 1 0 0 0 x 0 0 0 1", "not numbers"),
        ("intrinsics_matrix 9 0 4 0 9 4 0 0 1\nscan a b.jpg " + "0 " * 16, "not a rotation"),
    ],
)
def test_bad_matterport_cameras(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "house.conf"
    path.write_text(text)
    with pytest.raises(SceneError, match=message):
        read_cameras(path)
