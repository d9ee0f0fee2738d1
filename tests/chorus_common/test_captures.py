"""Posed RGB-D captures: what is written is read back, geometry included, and bad files get one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chorus_common.cameras import CameraSet, look_at, pinhole
from chorus_common.captures import read_capture
from chorus_common.captures.resample import resample_color, resample_depth
from chorus_common.captures.write import SensorConfig, sense_depth, write_capture
from chorus_common.runtime.errors import SceneError

QUIET = SensorConfig(noise=0, edge=1e9)
SIZE = (40, 30)


def cameras(count: int = 3) -> CameraSet:
    eyes = [np.array([2.0 * np.cos(a), 2.0 * np.sin(a), 0.5]) for a in np.arange(count)]
    views = np.stack([look_at(eye, np.zeros(3)) for eye in eyes])
    names = tuple(f"{10 * i:06d}" for i in range(count))
    return CameraSet(views, np.tile(pinhole(*SIZE, 70), (count, 1, 1)), *SIZE, names)


def floor_view(view: int, of: CameraSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An endless checked floor at z = -1, colour by place: what a renderer would give, exactly."""
    k, to_world = of.intrinsics[view], np.linalg.inv(of.viewmats[view])
    y, x = np.mgrid[: of.height, : of.width] + 0.5
    rays = np.stack([(x - k[0, 2]) / k[0, 0], (y - k[1, 2]) / k[1, 1], np.ones_like(x)], -1) @ to_world[:3, :3].T
    z = (-1 - to_world[2, 3]) / np.minimum(rays[..., 2], -1e-6)
    hit = (rays[..., 2] < 0) & (z < 6)
    place = to_world[:3, 3] + rays * z[..., None]
    color = np.where(hit[..., None], 0.5 + 0.4 * np.sin(place), 0)
    return color.astype(np.float32), np.where(hit, z, 0).astype(np.float32), hit.astype(np.float32)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    for layout in ("scannet", "plain"):
        write_capture(tmp_path / layout, cameras(), floor_view, layout=layout, sensor=QUIET)
    return tmp_path


@pytest.mark.parametrize("layout", ["scannet", "plain"])
def test_what_is_written_is_read(written: Path, layout: str) -> None:
    wanted, capture = cameras(), read_capture(written / layout)
    assert capture.cameras.names == wanted.names
    np.testing.assert_allclose(capture.cameras.viewmats, wanted.viewmats, atol=1e-9)
    for view in range(len(wanted)):
        frame = capture.frame(view, wanted.intrinsics[view], *SIZE)
        color, depth, _ = floor_view(view, wanted)
        np.testing.assert_allclose(frame.depth, depth, atol=6e-4)  # millimetres
        hit = depth > 0
        assert np.abs(frame.color - color)[hit].mean() < 0.02  # JPEG at twice the size, or PNG
        assert frame.known.all()


@pytest.mark.parametrize("layout", ["scannet", "plain"])
def test_points_of_a_frame_lie_on_the_surface(written: Path, layout: str) -> None:
    capture = read_capture(written / layout)
    points, colors = capture.points(1, stride=3)
    assert len(points) > 50
    np.testing.assert_allclose(points[:, 2], -1, atol=2e-3)
    assert np.abs(colors - (0.5 + 0.4 * np.sin(points))).mean() < 0.05


def test_poses_as_text_and_a_depth_camera_of_its_own(written: Path) -> None:
    folder = written / "plain"
    (folder / "transforms.json").unlink()
    (folder / "pose").mkdir()
    of = cameras()
    for name, view in zip(of.names, of.viewmats):
        np.savetxt(folder / "pose" / f"{name}.txt", np.linalg.inv(view))
    np.savetxt(folder / "intrinsics.txt", of.intrinsics[0])
    np.savetxt(folder / "intrinsics_depth.txt", of.intrinsics[0])
    capture = read_capture(folder, every=2)
    assert capture.cameras.names == (of.names[0], of.names[2])
    np.testing.assert_allclose(capture.cameras.intrinsics[0], of.intrinsics[0])
    np.savetxt(folder / "pose" / f"{of.names[0]}.txt", np.full((4, 4), -np.inf))
    with pytest.warns(UserWarning, match="skipped 1 of 3 views"):
        assert read_capture(folder).cameras.names == of.names[1:]


def test_paths_of_another_system(written: Path) -> None:
    file = written / "plain" / "transforms.json"
    wanted = read_capture(written / "plain").cameras.names
    text = json.loads(file.read_text())
    for frame in text["frames"]:
        frame["file_path"] = ".\\" + str(Path(frame["file_path"])).replace("/", "\\")
    file.write_text(json.dumps(text))
    capture = read_capture(written / "plain")
    assert capture.cameras.names == wanted
    assert capture.frame(0, cameras().intrinsics[0], *SIZE).known.all()


def test_frames_without_pictures_and_lost_poses_are_left_out(written: Path) -> None:
    folder = written / "scannet"
    (folder / "color" / "000010.jpg").unlink()
    np.savetxt(folder / "pose" / "000000.txt", np.full((4, 4), -np.inf))
    with pytest.warns(UserWarning, match="tracking was lost|have no pictures"):
        assert read_capture(folder).cameras.names == ("000020",)


def test_depth_units_and_npy_metres(written: Path) -> None:
    capture = read_capture(written / "plain")
    k = cameras().intrinsics[0]
    depth = capture.frame(0, k, *SIZE).depth
    np.testing.assert_allclose(
        read_capture(written / "plain", depth_unit=2e-4).frame(0, k, *SIZE).depth, depth / 5, rtol=1e-5
    )
    for path in (written / "plain" / "depth").glob("*.png"):
        np.save(path.with_suffix(".npy"), np.asarray(Image.open(path)).astype(np.float32) / 1000)
        path.unlink()
    np.testing.assert_allclose(read_capture(written / "plain").frame(0, k, *SIZE).depth, depth, rtol=1e-6)


def test_averaging_colour_equals_a_loop_over_pixels() -> None:
    rng = np.random.default_rng(0)
    picture = rng.random((12, 16, 3)).astype(np.float32)
    source = np.array([[10.0, 0, 8.2], [0, 11.0, 5.7], [0, 0, 1]])
    target = np.array([[3.0, 0, 2.6], [0, 2.5, 1.4], [0, 0, 1]])
    color, known = resample_color(picture, source, target, 6, 4)
    for y in range(4):
        for x in range(6):
            u0, u1 = ((x + d - target[0, 2]) * source[0, 0] / target[0, 0] + source[0, 2] for d in (0, 1))
            v0, v1 = ((y + d - target[1, 2]) * source[1, 1] / target[1, 1] + source[1, 2] for d in (0, 1))
            total, area = np.zeros(3), 0.0
            for row in range(12):
                for column in range(16):
                    w = max(0, min(u1, column + 1) - max(u0, column)) * max(0, min(v1, row + 1) - max(v0, row))
                    total, area = total + w * picture[row, column], area + w
            assert known[y, x] == (area >= 0.5 * (u1 - u0) * (v1 - v0))
            np.testing.assert_allclose(color[y, x], total / area if known[y, x] else 0, atol=1e-5)


def test_resampling_to_the_same_camera_changes_nothing_and_outside_is_unknown() -> None:
    rng = np.random.default_rng(1)
    k = pinhole(8, 6, 60)
    picture, depth = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), rng.random((6, 8)).astype(np.float32)
    color, known = resample_color(picture, k, k, 8, 6)
    np.testing.assert_allclose(color, picture / 255, atol=1e-6)
    assert known.all()
    np.testing.assert_array_equal(resample_depth(depth, k, k, 8, 6), depth)
    wide = k.copy()
    wide[0, 0], wide[1, 1] = k[0, 0] / 4, k[1, 1] / 4
    color, known = resample_color(picture, k, wide, 8, 6)
    assert known.any()
    assert not known[0].any()
    assert not color[~known].any()
    assert not resample_depth(depth, k, wide, 8, 6)[0].any()


def test_sensor_loses_what_sensors_lose() -> None:
    depth = np.full((40, 40), 2.0, np.float32)
    depth[:, 20:] = 3.0
    alpha = np.ones_like(depth)
    alpha[:5] = 0.3
    depth[30:, :10] = 12.0
    measured = sense_depth(depth, alpha, SensorConfig(), np.random.default_rng(0))
    assert not measured[:5].any()
    assert not measured[31:, :9].any()
    edge, inside = measured[5:30, 19:21] == 0, measured[6:29, 2:18] == 0
    assert 0.3 < edge.mean() < 0.7
    assert not inside.any()
    noise = (measured[6:29, 2:18] - 2.0).std()
    assert noise == pytest.approx(1.425e-3 * 4, rel=0.2)


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_capture(tmp_path / name, cameras(), floor_view, seed=3)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert files
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_a_failed_capture_leaves_nothing(tmp_path: Path) -> None:
    def fails(view: int, of: CameraSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if view == 1:
            raise RuntimeError("out of light")
        return floor_view(view, of)

    with pytest.raises(RuntimeError):
        write_capture(tmp_path / "c", cameras(), fails)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0])
def test_a_damaged_depth_pixel_is_unknown(written: Path, value: float) -> None:
    k = cameras().intrinsics[0]
    folder = written / "plain" / "depth"
    for path in folder.glob("*.png"):
        np.save(path.with_suffix(".npy"), np.asarray(Image.open(path)).astype(np.float32) / 1000)
        path.unlink()
    whole = read_capture(written / "plain").frame(0, k, *SIZE).depth
    depth = np.load(folder / "000000.npy")
    depth[20, 11] = value
    np.save(folder / "000000.npy", depth)
    found = read_capture(written / "plain").frame(0, k, *SIZE).depth
    assert whole[20, 11] > 0
    assert found[20, 11] == 0
    found[20, 11] = whole[20, 11]
    np.testing.assert_array_equal(found, whole)


def test_an_unreadable_pose_is_skipped_and_counted(written: Path) -> None:
    (written / "scannet" / "pose" / "000010.txt").write_text("nothing\n")
    with pytest.warns(UserWarning, match="skipped 1 of 3 views: 000010.txt: is not a matrix"):
        assert read_capture(written / "scannet").cameras.names == ("000000", "000020")


def test_photographs_of_a_bent_lens_are_refused(written: Path) -> None:
    path = written / "plain" / "transforms.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"k1": 0.1}))
    with pytest.raises(SceneError, match="plain: view 000000 has lens distortion"):
        read_capture(written / "plain")


def test_pictures_of_two_sizes(written: Path) -> None:
    path = written / "plain" / "transforms.json"
    data = json.loads(path.read_text())
    turned = data["frames"][1]
    turned |= {"w": 20, "h": 30, "cx": 10.0}
    path.write_text(json.dumps(data))
    (file,) = (written / "plain" / "color").glob("000010.*")
    with Image.open(file) as image:
        image.crop((10, 0, 30, 30)).save(file)
    capture = read_capture(written / "plain")
    assert capture.cameras.sizes == [SIZE, (20, 30), SIZE]
    wanted = cameras()
    frame = capture.frame(1, wanted.intrinsics[1], *SIZE)
    assert frame.known[:, 10:30].all()
    assert not frame.known[:, :10].any()
    color, depth, _ = floor_view(1, wanted)
    inside = (depth > 0) & frame.known
    assert np.abs(frame.color - color)[inside].mean() < 0.02


def spoil_size(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "color" / "000010.jpg")


def spoil_bytes(folder: Path) -> None:
    path = folder / "depth" / "000010.png"
    path.write_bytes(path.read_bytes()[:60])


def spoil_mode(folder: Path) -> None:
    Image.new("RGB", SIZE).save(folder / "depth" / "000010.png")


def spoil_intrinsics(folder: Path) -> None:
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", np.diag([600, 600, 1, 1]) + np.eye(4, k=2) * 640)


def spoil_extrinsics(folder: Path) -> None:
    moved = np.eye(4)
    moved[0, 3] = 0.03
    np.savetxt(folder / "intrinsic" / "extrinsic_depth.txt", moved)


def spoil_names(folder: Path) -> None:
    for path in (folder / "depth").iterdir():
        path.rename(path.with_name(f"depth-{path.name}"))


def spoil_twins(folder: Path) -> None:
    with Image.open(folder / "color" / "000010.jpg") as picture:
        picture.save(folder / "color" / "000010.png")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_size, "000010.jpg.*is 8x8"), (spoil_bytes, "000010.png.*(damaged|not a readable)"),
        (spoil_mode, "one integer channel"), (spoil_intrinsics, "scale the intrinsics"),
        (spoil_extrinsics, "register depth to colour"), (spoil_names, "paired by name"), (spoil_twins, "same name"),
    ],
)  # fmt: skip
def test_bad_captures_get_one_line(written: Path, spoil, words: str) -> None:
    folder = written / "scannet"
    spoil(folder)
    with pytest.raises(SceneError, match=words) as error:
        capture = read_capture(folder)
        for view in range(len(capture)):
            capture.frame(view, cameras().intrinsics[0], *SIZE)
    assert "\n" not in str(error.value)


def test_what_is_no_capture_is_said(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="not a posed RGB-D capture"):
        read_capture(tmp_path)
    with pytest.raises(SceneError, match="no such folder"):
        read_capture(tmp_path / "nowhere")
