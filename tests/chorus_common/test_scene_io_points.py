"""Point clouds: sizes, normals and quaternions against slow obvious twins, and every container they come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus_common.runtime.errors import SceneError
from chorus_common.scene import quats_to_rotations
from chorus_common.scene_io import PointCloudOptions, points_to_gaussians, read_scene
from chorus_common.scene_io.point_gaussians import quats_from_normals, unit_colors
from tests.chorus_common.scene_files import write_ply

PLAIN = PointCloudOptions(outlier_factor=1e9)


def cloud(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)), rng.integers(0, 256, (n, 3)).astype(np.uint8)


def test_radius_is_the_mean_distance_to_three_neighbours() -> None:
    points, colors = cloud()
    scene = points_to_gaussians(points, colors, options=PLAIN)
    for i in range(0, 200, 7):
        distances = sorted(np.linalg.norm(points - points[i], axis=1))[1:4]
        assert scene.scales[i, 0] == pytest.approx(np.mean(distances), rel=1e-5)
    assert np.allclose(scene.scales[:, 1], scene.scales[:, 0])
    assert np.allclose(scene.scales[:, 2], 0.1 * scene.scales[:, 0])
    assert (scene.opacities == np.float32(0.9)).all()


def test_caps_and_floor() -> None:
    points, colors = cloud()
    points[0] = 1000.0
    points[1:5] = points[5]
    scene = points_to_gaussians(points, colors)
    places = np.delete(np.arange(200), [2, 3, 4, 5])  # points that coincide are one place
    median = np.median(points_to_gaussians(points, colors, options=PLAIN).scales[places, 0])
    assert scene.scales[0, 0] == pytest.approx(4 * median, rel=1e-3)
    near = np.sort(np.linalg.norm(points[6:] - points[1], axis=1))[:3].mean()
    np.testing.assert_allclose(scene.scales[1:6, 0], near, rtol=1e-5)
    close = np.repeat(points[6:7], 60, axis=0) + np.linspace(0, 1e-5, 60)[:, None]
    assert points_to_gaussians(close, np.zeros((60, 3))).scales[:, 0] == pytest.approx(3.2e-4)
    tight = points_to_gaussians(points, colors, options=PointCloudOptions(max_scale=0.02, opacity=0.8, flatness=1.0))
    assert tight.scales.max() == np.float32(0.02)
    assert (tight.scales == tight.scales[:, :1]).all()


def test_normals_of_a_floor_and_a_wall() -> None:
    rng = np.random.default_rng(0)
    floor = np.column_stack([rng.uniform(0, 4, (400, 2)), np.zeros(400)])
    wall = np.column_stack([np.full(400, 4.8), rng.uniform(0, 4, 400), rng.uniform(0.8, 4.8, 400)])
    points = np.concatenate([floor, wall])
    scene = points_to_gaussians(points, np.zeros((800, 3)))
    assert scene.normals is not None
    np.testing.assert_allclose(scene.normals[:400], np.tile([0, 0, 1.0], (400, 1)), atol=1e-5)  # upward
    np.testing.assert_allclose(scene.normals[400:], np.tile([-1.0, 0, 0], (400, 1)), atol=1e-5)  # into the room
    # the thin axis of each disc is its normal
    thin = quats_to_rotations(scene.quats.astype(np.float64))[:, :, 2]
    np.testing.assert_allclose(thin, scene.normals, atol=1e-5)


@given(st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda n: np.linalg.norm(n) > 1e-3))
def test_quaternions_turn_z_onto_the_normal(normal: tuple[float, float, float]) -> None:
    n = np.array(normal) / np.linalg.norm(normal)
    turned = quats_to_rotations(quats_from_normals(n[None]).astype(np.float64))[0] @ [0, 0, 1]
    # near -z the shortest arc is ill-conditioned: f32 quaternions are good to about 1e-4 there
    np.testing.assert_allclose(turned, n, atol=2e-4)


@pytest.mark.parametrize("z", [1.0, -1.0])
def test_quaternions_of_the_poles(z: float) -> None:
    q = quats_from_normals(np.array([[0, 0, z]]))
    np.testing.assert_allclose(quats_to_rotations(q)[0] @ [0, 0, 1], [0, 0, z], atol=1e-7)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 10])
def test_tiny_clouds(n: int) -> None:
    points, colors = cloud(n)
    points_to_gaussians(points, colors).validated()
    points_to_gaussians(np.zeros((n, 3)), colors).validated()


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    points, colors = cloud(500)
    whole = points_to_gaussians(points, colors)
    monkeypatch.setattr("chorus_common.scene_io.point_gaussians._BLOCK", 7)
    blocks = points_to_gaussians(points, colors)
    # (the last bit may differ: vectorised sums depend on the block's length, which is fixed outside of this test)
    np.testing.assert_allclose(whole.scales, blocks.scales, rtol=1e-6)
    np.testing.assert_allclose(whole.quats, blocks.quats, atol=1e-6)


def test_colors_go_by_their_type() -> None:
    expected = np.array([[0, 0.2, 1]], np.float32)
    for colors in (
        np.array([[0, 51, 255]], np.uint8), np.array([[0, 51, 255]], np.int64), np.array([[0, 51, 255]], np.uint16),
        np.array([[0, 13107, 65535]], np.uint16), np.array([[0, 0.2, 1]]), np.array([[0.0, 51.0, 255.0]]),
    ):  # fmt: skip
        np.testing.assert_allclose(unit_colors(colors), expected, atol=1e-6)
    # integers 0 and 1 are nearly black, floats 0 and 1 are black and white
    assert unit_colors(np.array([[0, 1, 1]], np.uint8)).max() < 0.01
    for bad in (np.array([[-5, 0, 0]]), np.array([[0.0, 0.0, 300.0]]), np.array([[0, 0, 256]])):
        with pytest.raises(SceneError, match="colours run from"):
            unit_colors(bad)


XYZRGB = dict.fromkeys("xyz", "float") | dict.fromkeys(("red", "green", "blue"), "uchar")


@pytest.mark.parametrize("order", ["<", ">", "a"])
def test_ply_with_labels_and_faces(tmp_path: Path, order: str) -> None:
    points, colors = cloud(50)
    properties = {"x": "double", "y": "double", "z": "double"} | dict.fromkeys(("red", "green", "blue"), "uchar")
    properties |= {"alpha": "uchar", "label": "ushort", "instance": "int"}
    rows = [[*map(float, p), *map(int, c), 255, i % 40, i - 1] for i, (p, c) in enumerate(zip(points, colors))]
    path = write_ply(tmp_path / "mesh.ply", [("vertex", properties, rows)], order=order)
    # a mesh's faces follow the vertices, with lists that nobody can skip without reading them
    data = path.read_bytes()
    faces = b"element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    path.write_bytes(data.replace(b"end_header\n", faces) + b"\x03" + b"\0" * 12)
    scene = read_scene(path)
    assert scene.labels is not None
    assert scene.instances is not None
    assert scene.labels.tolist() == [i % 40 for i in range(50)]
    assert scene.instances.tolist() == [i - 1 for i in range(50)]
    np.testing.assert_allclose(scene.means, points, atol=1e-6)
    np.testing.assert_allclose(scene.colors, colors / 255, atol=1e-6)


def test_ply_with_float_colors_and_normals(tmp_path: Path) -> None:
    points, colors = cloud(50)
    properties = dict.fromkeys(("x", "y", "z", "nx", "ny", "nz", "r", "g", "b"), "float")
    rows = [[*map(float, p), 0.0, 0.0, 2.0, *map(float, c / 255)] for p, c in zip(points, colors)]
    scene = read_scene(write_ply(tmp_path / "a.ply", [("vertex", properties, rows)]))
    assert scene.normals is not None
    assert np.allclose(scene.normals, [0, 0, 1])
    assert np.allclose(scene.quats, [1, 0, 0, 0])


def test_npy_tables_and_structured_arrays(tmp_path: Path) -> None:
    points, colors = cloud(30)
    np.save(tmp_path / "a.npy", np.column_stack([points, colors, np.arange(30)]))
    np.save(tmp_path / "f.npy", np.asfortranarray(np.column_stack([points, colors / 255]).astype(np.float32)))
    fields = [(k, "<f4") for k in "xyz"] + [(k, "u1") for k in ("red", "green", "blue")] + [("label", "<i2")]
    table = np.zeros(30, fields)
    for i, key in enumerate("xyz"):
        table[key] = points[:, i]
    for i, key in enumerate(("red", "green", "blue")):
        table[key] = colors[:, i]
    table["label"] = np.arange(30)
    np.save(tmp_path / "s.npy", table)
    scenes = [read_scene(tmp_path / f"{name}.npy") for name in "afs"]
    for scene in scenes:
        np.testing.assert_allclose(scene.means, points, atol=1e-6)
        np.testing.assert_allclose(scene.colors, colors / 255, atol=1e-6)
    assert scenes[0].labels is None
    assert scenes[2].labels is not None
    assert scenes[2].labels.tolist() == list(range(30))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_by_names(tmp_path: Path, save: object) -> None:
    points, colors = cloud(30)
    save(  # type: ignore[operator]
        tmp_path / "a.npz", means3d=points.astype(np.float32), colors=colors, segment=np.arange(30),
        normals=np.tile([0, 0, 1.0], (30, 1)), viewmats=np.zeros((3, 4, 4)), height=np.int64(4),
    )  # fmt: skip
    scene = read_scene(tmp_path / "a.npz", label_space="scannet20", point_cloud=PointCloudOptions(opacity=0.5))
    np.testing.assert_allclose(scene.means, points, atol=1e-6)
    assert scene.labels is not None
    assert scene.labels.tolist() == list(range(30))
    assert scene.label_space == "scannet20"
    assert (scene.opacities == 0.5).all()


def test_clouds_without_what_they_need(tmp_path: Path) -> None:
    xyz = dict.fromkeys("xyz", "float")
    cases = [
        (write_ply(tmp_path / "grey.ply", [("vertex", xyz, [[0, 0, 0]])]), "neither Gaussians .* nor coloured points"),
        (write_ply(tmp_path / "empty.ply", [("vertex", XYZRGB, [])]), "holds no points"),
        (write_ply(tmp_path / "face.ply", [("face", xyz, [])]), "no vertex element"),
    ]
    np.save(tmp_path / "five.npy", np.zeros((4, 5)))
    np.save(tmp_path / "objects.npy", np.array([{}, 1], object), allow_pickle=True)
    np.savez(tmp_path / "names.npz", a=np.zeros(3))
    np.savez(tmp_path / "grey.npz", xyz=np.zeros((3, 3)))
    np.savez(tmp_path / "labels.npz", xyz=np.zeros((3, 3)), rgb=np.zeros((3, 3)), labels=np.zeros(2, int))
    cloud = {"xyz": np.zeros((3, 3)), "rgb": np.zeros((3, 3))}
    np.savez(tmp_path / "long.npz", **cloud, labels=np.full(3, 2**40))
    np.savez(tmp_path / "words.npz", **cloud, normals=np.full((3, 3), "up"))
    scalars = [(c, "u1") for c in ("red", "green", "blue")]
    np.save(tmp_path / "text.npy", np.zeros(3, [*((c, "U3") for c in "xyz"), *scalars]))
    np.save(tmp_path / "nested.npy", np.zeros(3, [*((c, "f4", 2) for c in "xyz"), *scalars]))
    np.savez(tmp_path / "real.npz", xyz=np.zeros((3, 3)), rgb=np.zeros((3, 3)), labels=np.zeros(3))
    cases += [
        (tmp_path / "five.npy", r"expected a table \[N, 6\]"), (tmp_path / "objects.npy", "holds Python objects"),
        (tmp_path / "names.npz", "no array of points"), (tmp_path / "grey.npz", "has no colors"),
        (tmp_path / "labels.npz", "2 labels for 3 points"), (tmp_path / "real.npz", "expected integers"),
        (tmp_path / "long.npz", "labels run from 1099511627776 to .*, beyond 32 bits"),
        (tmp_path / "words.npz", "normals are <U2, expected numbers"),
        (tmp_path / "text.npy", "has no points"), (tmp_path / "nested.npy", "has no points"),
    ]  # fmt: skip
    for path, message in cases:
        with pytest.raises(SceneError, match=message) as caught:
            read_scene(path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)
