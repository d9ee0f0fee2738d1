"""Cameras: every format written by hand, conventions checked by projecting a point, damaged files refused."""

from __future__ import annotations

import json
import struct
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from chorus_common.camera_io import read_cameras, write_transforms_json
from chorus_common.cameras import CameraSet, look_at, pinhole
from chorus_common.runtime.errors import SceneError


def cameras(n: int = 4, seed: int = 0) -> CameraSet:
    rng = np.random.default_rng(seed)
    views = np.stack([look_at(rng.uniform(-2, 2, 3), rng.uniform(3, 5, 3)) for _ in range(n)])
    k = np.stack([pinhole(64, 48, 60 + i) for i in range(n)])
    return CameraSet(views, k, 64, 48, tuple(f"{i:04d}" for i in range(n)))


def quat(rotation: np.ndarray) -> list[float]:
    """(w, x, y, z) of a rotation matrix with a positive trace or not, by the eigenvector of its 4x4 form."""
    m = rotation
    k = np.array(
        [
            [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [m[0, 2] - m[2, 0], m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], m[1, 2] + m[2, 1]],
            [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    return np.linalg.eigh(k)[1][:, -1].tolist()  # type: ignore[no-any-return]


def assert_same(found: CameraSet, truth: CameraSet) -> None:
    assert found.names == truth.names
    assert (found.width, found.height) == (truth.width, truth.height)
    np.testing.assert_allclose(found.viewmats, truth.viewmats, atol=1e-9)
    np.testing.assert_allclose(found.intrinsics, truth.intrinsics, atol=1e-9)


# ---- transforms.json -------------------------------------------------------------------------------------------------


def test_transforms_round_trip(tmp_path: Path) -> None:
    truth = cameras()
    path = write_transforms_json(truth, tmp_path / "transforms.json")
    assert_same(read_cameras(path), truth)
    assert_same(read_cameras(tmp_path), truth)
    assert path.read_bytes() == write_transforms_json(truth, tmp_path / "again.json").read_bytes()


def test_transforms_axes_are_opengl(tmp_path: Path) -> None:
    # an identity pose in OpenGL looks along -z with y up: a point ahead and above lands in the picture's upper half
    frame = {"file_path": "images/a.png", "transform_matrix": np.eye(4).tolist()}
    data = {"w": 100, "h": 50, "fl_x": 80.0, "frames": [frame]}
    (tmp_path / "transforms.json").write_text(json.dumps(data))
    found = read_cameras(tmp_path / "transforms.json")
    x, y, z = found.intrinsics[0] @ (found.viewmats[0] @ [0.5, 0.5, -4.0, 1.0])[:3]
    assert z == pytest.approx(4)
    assert x / z == pytest.approx(50 + 80 * 0.5 / 4)
    assert y / z == pytest.approx(25 - 80 * 0.5 / 4)
    assert found.names == ("a",)


def test_transforms_intrinsics_by_angle_and_per_frame(tmp_path: Path) -> None:
    pose = np.eye(4).tolist()
    frames = [
        {"file_path": "left/1.png", "transform_matrix": pose},
        {"file_path": "right/1.png", "transform_matrix": pose[:3], "fl_x": 33, "fl_y": 44, "cx": 1, "cy": 2},
    ]
    data = {"w": 100, "h": 50, "camera_angle_x": np.pi / 2, "k1": 0.0, "frames": frames}
    (tmp_path / "t.json").write_text(json.dumps(data))
    found = read_cameras(tmp_path / "t.json")
    assert found.names == ("left/1.png", "right/1.png")  # the bare names would collide
    np.testing.assert_allclose(found.intrinsics[0], [[50, 0, 50], [0, 50, 25], [0, 0, 1]])
    np.testing.assert_allclose(found.intrinsics[1], [[33, 0, 1], [0, 44, 2], [0, 0, 1]])


def test_every_view_keeps_its_size(tmp_path: Path) -> None:
    pose = np.eye(4).tolist()
    frames = [{"file_path": f"{i}.png", "transform_matrix": pose, "w": 100, "h": 50, "fl_x": 40} for i in range(3)]
    frames[0] |= {"w": 200, "h": 120}
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"frames": frames}))
    found = read_cameras(path)
    assert found.sizes == [(200, 120), (100, 50), (100, 50)]
    np.testing.assert_allclose(found.intrinsics[0], [[40, 0, 100], [0, 40, 60], [0, 0, 1]])
    again = read_cameras(write_transforms_json(found, tmp_path / "again.json"))
    assert again.sizes == found.sizes


@pytest.mark.parametrize(
    ("change", "distorted"),
    [({"k1": 1e-9}, False), ({"k1": 0.012}, True), ({"distortion_params": [0, 1e-9]}, False), ({"k6": -0.1}, True),
     ({"distortion_params": [0.0, 0.1]}, True)],
)  # fmt: skip
def test_the_pinhole_part_of_a_bent_lens_is_taken(tmp_path: Path, change: dict[str, object], distorted: bool) -> None:
    data = {"w": 100, "h": 50, "fl_x": 80.0, "frames": [{"file_path": "0.png", "transform_matrix": np.eye(4).tolist()}]}
    (tmp_path / "t.json").write_text(json.dumps(data | change))
    found = read_cameras(tmp_path / "t.json")
    assert found.distorted is not None
    assert found.distorted.tolist() == [distorted]
    assert found.intrinsics[0, 0, 0] == 80


def test_paths_of_another_system(tmp_path: Path) -> None:
    frames = [{"file_path": f"rgb\\{i:06d}.png", "transform_matrix": np.eye(4).tolist()} for i in (13, 14)]
    (tmp_path / "t.json").write_text(json.dumps({"w": 100, "h": 50, "fl_x": 80.0, "frames": frames}))
    assert read_cameras(tmp_path / "t.json").names == ("000013", "000014")
    frames[1]["file_path"] = ".\\left\\000013.png"
    (tmp_path / "t.json").write_text(json.dumps({"w": 100, "h": 50, "fl_x": 80.0, "frames": frames}))
    assert read_cameras(tmp_path / "t.json").names == ("rgb/000013.png", "./left/000013.png")


def test_one_damaged_frame_is_skipped_and_counted(tmp_path: Path) -> None:
    good = np.eye(4).tolist()
    bad = [[1, 2], [3]], np.full((4, 4), np.nan).tolist(), None, (2 * np.eye(4)).tolist()
    frames = [{"file_path": f"{i}.png", "transform_matrix": m} for i, m in enumerate((good, *bad, good))]
    (tmp_path / "t.json").write_text(json.dumps({"w": 100, "h": 50, "fl_x": 80.0, "frames": frames}))
    with pytest.warns(UserWarning, match=r"t.json: skipped 4 of 6 views: transform_matrix of frame 1"):
        assert read_cameras(tmp_path / "t.json").names == ("0", "5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distortion_params": 0.1}, "not a list"),
        ({"distortion_params": ["x"]}, "holds 'x', which is not a number"),
        ({"camera_model": "EQUIRECTANGULAR"}, "no pinhole"),
        ({"camera_model": 7}, "no pinhole"),
        ({"k1": float("inf")}, "k1 of frame 0 is not a number"),
        ({"w": None}, "no picture size"),
        ({"fl_x": None}, "no focal length"),
        ({"fl_x": "wide"}, "fl_x of frame 0 is not a number"),
        ({"fl_x": float("nan")}, "fl_x of frame 0 is not a number"),
        ({"fl_x": 10**400}, "fl_x of frame 0 is not a number"),
        ({"frames": [{"file_path": "0.png", "transform_matrix": np.eye(4).tolist()}] * 2}, "2 views with 1 different"),
        ({"fl_x": None, "camera_angle_x": 4.0}, "field of view"),
        ({"frames": []}, "has no frames"),
        ({"frames": [1]}, "frame 0 is not an object"),
        ({"frames": [{"file_path": "0.png"}]}, "pose of frame 0|transform_matrix of frame 0"),
        ({"frames": [{"file_path": "0.png", "transform_matrix": [[1, 2], [3]]}]}, "transform_matrix of frame 0"),
        ({"frames": [{"file_path": "0.png", "transform_matrix": np.zeros((4, 4)).tolist()}]}, "not a rotation"),
        ({"frames": [{"file_path": "0.png", "transform_matrix": (2 * np.eye(4)).tolist()}]}, "not a rotation"),
        ({"frames": [{"file_path": "0.png", "transform_matrix": np.diag([1.0, 1, -1, 1]).tolist()}]}, "not a rotation"),
    ],
)
def test_bad_transforms(tmp_path: Path, change: dict[str, object], message: str) -> None:
    data = {"w": 100, "h": 50, "fl_x": 80.0, "frames": [{"file_path": "0.png", "transform_matrix": np.eye(4).tolist()}]}
    path = tmp_path / "t.json"
    path.write_text(json.dumps(data | change))
    with pytest.raises(SceneError, match=rf"t.json: .*({message})") as caught:
        read_cameras(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 5000, "\x00", "1" * 5000])
def test_transforms_that_are_not_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(SceneError, match=r"t.json: (not valid JSON|has no frames)"):
        read_cameras(tmp_path / "t.json")


# ---- COLMAP ----------------------------------------------------------------------------------------------------------


def colmap_txt(folder: Path, truth: CameraSet, camera_line: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# Camera list", "# Number of cameras: 1"]
    for i, k in enumerate(truth.intrinsics):
        lines.append(
            camera_line or f"{i + 1} PINHOLE {truth.width} {truth.height} {k[0, 0]!r} {k[1, 1]!r} {k[0, 2]} {k[1, 2]}"
        )
    (folder / "cameras.txt").write_text("\n".join(lines).replace("np.float64(", "").replace(")", "") + "\n")
    lines = ["# Image list"]
    for i in reversed(range(len(truth))):  # the file's order is not the names' order
        pose = [*quat(truth.viewmats[i, :3, :3]), *truth.viewmats[i, :3, 3].tolist()]
        camera = 1 if camera_line else i + 1
        lines += [
            f"{i + 7} {' '.join(map(repr, pose))} {camera} {truth.names[i]}",
            "" if i % 2 else "1.5 2.5 -1 3 4 17",
        ]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")


def colmap_bin(folder: Path, truth: CameraSet) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    out = struct.pack("<Q", len(truth))
    for i, k in enumerate(truth.intrinsics):
        out += struct.pack("<IiQQ4d", i + 1, 1, truth.width, truth.height, k[0, 0], k[1, 1], k[0, 2], k[1, 2])
    (folder / "cameras.bin").write_bytes(out)
    out = struct.pack("<Q", len(truth))
    for i in reversed(range(len(truth))):
        out += struct.pack("<I7dI", i + 7, *quat(truth.viewmats[i, :3, :3]), *truth.viewmats[i, :3, 3], i + 1)
        out += truth.names[i].encode() + b"\0" + struct.pack("<Q", i) + struct.pack("<2dq", 1, 2, 3) * i
    (folder / "images.bin").write_bytes(out)


@pytest.mark.parametrize("place", [".", "sparse", "sparse/0", "dense/0/sparse", "colmap/sparse/0"])
@pytest.mark.parametrize("write", [colmap_txt, colmap_bin])
def test_colmap(tmp_path: Path, place: str, write: object) -> None:
    truth = cameras(5)
    write(tmp_path / place, truth)  # type: ignore[operator]
    assert_same(read_cameras(tmp_path), truth)


@pytest.mark.parametrize(
    ("line", "focal"),
    [
        ("1 SIMPLE_PINHOLE 64 48 50 32 24", (50, 50)),
        ("1 SIMPLE_RADIAL 64 48 50 32 24 0.0", (50, 50)),
        ("1 OPENCV 64 48 50 51 32 24 0 0 0 0", (50, 51)),
    ],
)
def test_colmap_models_without_distortion(tmp_path: Path, line: str, focal: tuple[float, float]) -> None:
    colmap_txt(tmp_path, cameras(), line)
    k = read_cameras(tmp_path).intrinsics[0]
    assert (k[0, 0], k[1, 1], k[0, 2], k[1, 2]) == (*focal, 32, 24)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 OPENCV_FISHEYE 64 48 50 51 32 24 0 0 0", "takes 8 parameters, found 7"),
        ("1 PINHOLE 64 48 50 51 32", "takes 4 parameters, found 3"),
        ("1 PINHOLE 64 48 50 51 32 x", "not numbers"),
        ("1 PINHOLE 64 48 -50 51 32 24", "no camera has"),
        ("1 MAGIC 64 48 50", "unknown camera model 'MAGIC'"),
        ("2 PINHOLE 64 48 50 51 32 24", "uses camera 1, which the cameras file lacks"),
    ],
)
def test_bad_colmap_cameras(tmp_path: Path, line: str, message: str) -> None:
    colmap_txt(tmp_path, cameras(), line)
    with pytest.raises(SceneError, match=message):
        read_cameras(tmp_path)


@pytest.mark.parametrize(
    ("line", "distorted"),
    [("1 OPENCV 64 48 50 51 32 24 0.012 0 0 0", True), ("1 SIMPLE_RADIAL 64 48 50 32 24 1e-9", False)],
)
def test_colmap_lenses_with_distortion_give_their_pinhole_part(tmp_path: Path, line: str, distorted: bool) -> None:
    colmap_txt(tmp_path, cameras(), line)
    found = read_cameras(tmp_path)
    assert found.intrinsics[0, 0, 0] == 50
    assert found.distorted is not None
    assert found.distorted.all() == distorted
    assert found.distorted.any() == distorted


@pytest.mark.parametrize(
    "line", ["1 OPENCV_FISHEYE 64 48 50 51 32 24 0.1 0 0 0", "1 FOV 64 48 50 51 32 24 0.9"]
)  # fmt: skip
def test_a_fisheye_gives_the_pinhole_of_its_focal_lengths(tmp_path: Path, line: str) -> None:
    colmap_txt(tmp_path, cameras(), line)
    found = read_cameras(tmp_path)
    assert found.distorted is not None
    assert found.distorted.all()
    np.testing.assert_array_equal(found.intrinsics[0], [[50, 0, 32], [0, 51, 24], [0, 0, 1]])


@pytest.mark.parametrize(
    "line", ["9 OPENCV_FISHEYE 64 48 50 51 32 24 0 0 0 0", "9 MAGIC 64 48 50", "9 PINHOLE 0 0 1 1 1 1"]
)
def test_cameras_that_no_image_uses_do_not_matter(tmp_path: Path, line: str) -> None:
    colmap_txt(tmp_path, cameras())
    with open(tmp_path / "cameras.txt", "a") as handle:
        handle.write(line + "\n")
    assert_same(read_cameras(tmp_path), cameras())


def test_colmap_cameras_of_two_sizes(tmp_path: Path) -> None:
    colmap_txt(tmp_path, cameras(4))
    lines = (tmp_path / "cameras.txt").read_text().splitlines()
    lines = [line.replace("64 48", "48 64") if line.startswith(("2 ", "3 ")) else line for line in lines]
    (tmp_path / "cameras.txt").write_text("\n".join(lines) + "\n")
    assert read_cameras(tmp_path).sizes == [(64, 48), (48, 64), (48, 64), (64, 48)]


def test_one_damaged_image_is_skipped_and_counted(tmp_path: Path) -> None:
    colmap_txt(tmp_path, cameras(4))
    lines = (tmp_path / "images.txt").read_text().splitlines()
    row = next(i for i, line in enumerate(lines) if line.endswith(" 0002"))
    words = lines[row].split()
    lines[row] = " ".join([words[0], *["nan"] * 4, *words[5:]])
    (tmp_path / "images.txt").write_text("\n".join(lines) + "\n")
    with pytest.warns(UserWarning, match="skipped 1 of 4 views: pose of 0002"):
        assert read_cameras(tmp_path).names == ("0000", "0001", "0003")


# ---- cameras.json of 3DGS training -----------------------------------------------------------------------------------


def inria_entries(truth: CameraSet) -> list[dict[str, object]]:
    return [
        {
            "id": i, "img_name": f"{name}.jpg", "width": width, "height": height,
            "position": (-view[:3, :3].T @ view[:3, 3]).tolist(), "rotation": view[:3, :3].T.tolist(),
            "fx": k[0, 0], "fy": k[1, 1],
        }
        for i, (name, (width, height), view, k) in enumerate(
            zip(truth.names, truth.sizes, truth.viewmats, truth.intrinsics)
        )
    ]  # fmt: skip


@pytest.mark.parametrize("place", [".", "cameras.json"])
def test_inria_cameras(tmp_path: Path, place: str) -> None:
    truth = cameras(3)
    (tmp_path / "cameras.json").write_text(json.dumps(inria_entries(truth)))
    (tmp_path / "point_cloud").mkdir()
    assert_same(read_cameras(tmp_path / place), truth)


def test_damaged_inria_cameras(tmp_path: Path) -> None:
    path = tmp_path / "cameras.json"
    entries = inria_entries(cameras(3))
    for change, message in (
        ({"width": 0}, "width of camera 0000 is not"), ({"fx": "a"}, "fx of camera 0000"), ({"fy": -1}, "fy of camera"),
        ({"img_name": [1]}, "img_name of camera 0"),
    ):  # fmt: skip
        path.write_text(json.dumps([entries[0] | change, *entries[1:]]))
        with pytest.raises(SceneError, match=message):
            read_cameras(path)
    path.write_text(json.dumps([entries[0] | {"rotation": [1, 2]}, *entries[1:]]))
    with pytest.warns(UserWarning, match="skipped 1 of 3 views: camera 0000 has no rotation"):
        assert read_cameras(path).names == ("0001", "0002")


@pytest.mark.parametrize("name", ["a\nb", "\x16" * 3000])
def test_names_of_damaged_files_stay_on_one_line(tmp_path: Path, name: str) -> None:
    truth = cameras(2)
    colmap_bin(tmp_path, replace(truth, names=(name, "b")))
    (tmp_path / "cameras.bin").write_bytes(struct.pack("<Q", 0))
    with pytest.raises(SceneError, match="uses camera") as error:
        read_cameras(tmp_path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_colmap_truncated_anywhere(tmp_path: Path) -> None:
    colmap_bin(tmp_path, cameras(3))
    for name in ("cameras.bin", "images.bin"):
        data = (tmp_path / name).read_bytes()
        for cut in range(len(data)):
            (tmp_path / name).write_bytes(data[:cut])
            with pytest.raises(SceneError, match=name):
                read_cameras(tmp_path)
        (tmp_path / name).write_bytes(data)


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_flipped_camera_bytes(tmp_path: Path, data: st.DataObject) -> None:
    truth = cameras(3)
    colmap_bin(tmp_path / "b", truth)
    colmap_txt(tmp_path / "t", truth)
    names = ["b/cameras.bin", "b/images.bin", "t/cameras.txt", "t/images.txt"]
    path = tmp_path / data.draw(st.sampled_from(names))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    message = ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*skipped")  # a view with a damaged pose
        try:
            read_cameras(path.parent)
        except SceneError as caught:
            message = str(caught)
    assert "\n" not in message


# ---- ScanNet ---------------------------------------------------------------------------------------------------------


def scannet(folder: Path, truth: CameraSet, *, kind: str = "color") -> None:
    (folder / "pose").mkdir(parents=True)
    (folder / "intrinsic").mkdir()
    for i, view in enumerate(truth.viewmats):
        rows = np.linalg.inv(view).tolist()
        (folder / "pose" / f"{i * 20}.txt").write_text("\n".join(" ".join(map(repr, row)) for row in rows) + "\n")
    k = np.eye(4)
    k[:3, :3] = truth.intrinsics[0]
    (folder / "intrinsic" / f"intrinsic_{kind}.txt").write_text(
        "\n".join(" ".join(map(str, row)) for row in k.tolist())
    )


def picture(path: Path, width: int, height: int, *, note: int = 0) -> None:
    """A picture file; `note`: bytes of metadata that stand before its size."""
    path.parent.mkdir(exist_ok=True)
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    options = {} if kind == "PNG" else {"comment": b"x" * min(note, 60000), "icc_profile": bytes(note)}
    Image.new("RGB", (width, height)).save(path, kind, **options)


@pytest.mark.parametrize("name", ["0.png", "0.jpg", "0.JPG", "0.jpeg"])
@pytest.mark.parametrize("kind", ["color", "depth"])
def test_scannet(tmp_path: Path, name: str, kind: str) -> None:
    truth = cameras(12)
    scannet(tmp_path, truth, kind=kind)
    picture(tmp_path / kind / name, 64, 48, note=300_000)
    (tmp_path / kind / f"._{name}").write_bytes(b"what another system leaves beside files")
    found = read_cameras(tmp_path)
    assert found.names == tuple(str(20 * i) for i in range(12))  # by number: 100 comes after 80
    assert (found.width, found.height) == (64, 48)
    np.testing.assert_allclose(found.viewmats, truth.viewmats, atol=1e-9)
    np.testing.assert_allclose(found.intrinsics[5], truth.intrinsics[0])


def test_scannet_without_pictures_takes_scannets_own_size(tmp_path: Path) -> None:
    scannet(tmp_path, cameras(2).resized(640, 480), kind="depth")
    assert (read_cameras(tmp_path).width, read_cameras(tmp_path).height) == (640, 480)


def test_scannet_matrix_of_another_picture_size_is_refused(tmp_path: Path) -> None:
    scannet(tmp_path, cameras(2))
    picture(tmp_path / "color" / "0.png", 32, 24)  # halved, and the matrix not with them
    with pytest.raises(
        SceneError, match=r"intrinsic_color.txt: .*32, 24, but pictures are 32x24; scale the intrinsics"
    ):
        read_cameras(tmp_path)


def test_scannet_size_from_the_text_file_of_the_scan(tmp_path: Path) -> None:
    scannet(tmp_path / "scene0000_00", cameras(2).resized(1920, 1440))
    with pytest.raises(SceneError, match=r"size of the color pictures is unknown.*add one picture"):
        read_cameras(tmp_path / "scene0000_00")
    text = "axisAlignment = 1 0 0 0\ncolorHeight = 1440\ncolorWidth = 1920\ndepthWidth = 640\n"
    (tmp_path / "scene0000_00" / "scene0000_00.txt").write_text(text)
    assert read_cameras(tmp_path / "scene0000_00").sizes == [(1920, 1440)] * 2


def test_scannet_pictures_that_cannot_be_read_are_no_reason_to_guess(tmp_path: Path) -> None:
    scannet(tmp_path, cameras(2).resized(1296, 968))
    (tmp_path / "color").mkdir()
    (tmp_path / "color" / "0.jpg").write_bytes(b"\xff\xd8 cut")
    with pytest.raises(SceneError, match=r"0.jpg: not a readable picture"):
        read_cameras(tmp_path)
    picture(tmp_path / "color" / "1.jpg", 1296, 968)
    assert read_cameras(tmp_path).width == 1296


def test_scannet_skips_lost_frames_and_says_so(tmp_path: Path) -> None:
    scannet(tmp_path, cameras(4).resized(1296, 968))
    lost = "\n".join(["-inf -inf -inf -inf"] * 4)
    (tmp_path / "pose" / "20.txt").write_text(lost)
    (tmp_path / "pose" / "40.txt").write_text(lost.replace("-inf", "nan"))
    with pytest.warns(UserWarning, match="skipped 2 of 4 views"):
        assert read_cameras(tmp_path).names == ("0", "60")
    for i in (0, 60):
        (tmp_path / "pose" / f"{i}.txt").write_text(lost)
    with pytest.raises(SceneError, match="tracking was lost"):
        read_cameras(tmp_path)


@pytest.mark.parametrize("text", ["1 2 3", "a b", "\udcff"])
def test_bad_scannet_files(tmp_path: Path, text: str) -> None:
    scannet(tmp_path, cameras(2).resized(1296, 968))
    (tmp_path / "pose" / "0.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.warns(UserWarning, match=r"skipped 1 of 2 views: 0.txt: (holds 3 numbers|is not a matrix|is not text)"):
        assert read_cameras(tmp_path).names == ("20",)
    (tmp_path / "pose" / "20.txt").unlink()
    with pytest.raises(SceneError, match=r"pose: 0.txt: (holds 3 numbers|is not a matrix|is not text)"):
        read_cameras(tmp_path)


def test_what_holds_no_cameras(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    for path in (tmp_path, tmp_path / "a.txt", tmp_path / "nothing"):
        with pytest.raises(SceneError, match=str(path)):
            read_cameras(path)
