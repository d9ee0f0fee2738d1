"""Normals that scenes do not bring: direction and sign."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from chorus_common.normals import facing_free_space, plane_normals, shortest_axes
from chorus_common.scene import GaussianScene, canonical_quats
from chorus_common.scene_io import points_to_gaussians
from chorus_common.viewpoints.kernels import open_side
from data_manifests.synthetic import RoomOptions, generate_room

F64 = NDArray[np.float64]


def box_of_points(rng: np.random.Generator, n: int = 6000, size: tuple[float, float, float] = (4, 5, 2.5)) -> F64:
    """Points on the six faces of a box."""
    points = rng.random((n, 3))
    face = rng.integers(6, size=n)
    points[np.arange(n), face // 2] = face % 2
    return points * np.array(size)


def test_normals_of_a_plane() -> None:
    points = np.random.default_rng(0).random((300, 3)) * [1, 1, 0.001]
    assert (np.abs(plane_normals(points)[:, 2]) > 0.99).all()


def test_shortest_axis() -> None:
    rng = np.random.default_rng(0)
    quats = canonical_quats(rng.normal(size=(50, 4)))
    f = np.float32
    scene = GaussianScene(
        rng.random((50, 3)).astype(f), quats, np.tile(f([0.2, 0.01, 0.3]), (50, 1)), np.full(50, 0.9, f),
        rng.random((50, 3)).astype(f),
    )  # fmt: skip
    w, x, y, z = quats.T
    second = np.stack([2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)], 1)
    assert np.allclose(shortest_axes(scene), second, atol=1e-5)


def test_the_faces_of_a_room_look_inside() -> None:
    points = box_of_points(np.random.default_rng(0))
    normals = points_to_gaussians(points, np.zeros_like(points)).normals
    assert normals is not None
    on_face = np.minimum(points, [4, 5, 2.5] - points).min(1) < 1e-9
    inner = on_face & (np.sort(np.minimum(points, [4, 5, 2.5] - points), axis=1)[:, 1] > 0.3)  # not at an edge
    middle = np.array([2, 2.5, 1.25])
    assert (np.einsum("ni,ni->n", normals, middle - points)[inner] > 0).all()


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_signs_of_rooms_whose_normals_are_known(seed: int) -> None:
    """As splats without normals and as points. The normals of rooms are known."""
    scene = generate_room(seed, RoomOptions(gaussians=12_000, views=1)).scene
    assert scene.normals is not None
    assert scene.labels is not None
    points = points_to_gaussians(scene.means, scene.colors)
    assert points.normals is not None
    for found in (facing_free_space(shortest_axes(scene), scene), points.normals):
        right = np.einsum("ni,ni->n", found, scene.normals) > 0
        assert right.mean() > 0.7
        assert right[scene.labels == 0].mean() > 0.93  # walls
        assert right[scene.labels == 1].mean() > 0.95  # the floor


def test_the_sign_does_not_depend_on_the_given_one() -> None:
    scene = generate_room(0, RoomOptions(gaussians=3_000, views=1)).scene
    axes = shortest_axes(scene)
    signs = np.random.default_rng(1).choice([-1, 1], size=(len(axes), 1)).astype(np.float32)
    np.testing.assert_array_equal(facing_free_space(axes, scene), facing_free_space(axes * signs, scene))


def test_where_no_ray_ends_normals_point_to_the_middle() -> None:
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(0, 3, (500, 2)), np.zeros(500)])
    scene = points_to_gaussians(points, np.zeros((500, 3)), normals=np.tile([0, 0, 1.0], (500, 1)))
    lifted = replace(scene, means=np.concatenate([scene.means[:-1], np.float32([[1.5, 1.5, 4]])]))
    for sign in (1.0, -1.0):
        found = facing_free_space(np.float32([0, 0, sign]) * np.ones((500, 1), np.float32), lifted)
        assert (found[:-1, 2] == 1).all()  # the box reaches up to the lone point


def test_an_empty_scene_has_no_normals() -> None:
    scene = generate_room(0, RoomOptions(gaussians=1_000, views=1)).scene.select(np.zeros(0, np.int64))
    assert facing_free_space(np.zeros((0, 3)), scene).shape == (0, 3)


def slow_open_side(solid: NDArray[np.bool_], points: F64, normals: F64, rays: F64, offset: float) -> F64:
    """Every ray in small steps."""
    out = np.zeros(len(points))
    for i, (point, normal) in enumerate(zip(points, normals)):
        other = np.array([-normal[1], normal[0], 0.0]) if abs(normal[2]) < 0.9 else np.array([0, -normal[2], normal[1]])
        a = other / np.linalg.norm(other)
        b = np.cross(normal, a)
        for sign in (1.0, -1.0):
            start = point + sign * offset * normal
            if (start < 0).any() or (start >= solid.shape).any():
                continue
            own = np.floor(start).astype(int)
            for u, v, w in rays:
                steps = np.arange(0, sum(solid.shape), 1e-3)[:, None]
                cells = np.floor(start + steps * (u * a + v * b + sign * w * normal)).astype(int)
                inside = ((cells >= 0) & (cells < solid.shape)).all(1)
                last = len(inside) if inside.all() else int(inside.argmin())
                hit = solid[tuple(cells[:last].T)] & (cells[:last] != own).any(1)
                out[i] += sign * steps[hit.argmax(), 0] if hit.any() else 0.0
    return out


def test_rays_equal_small_steps() -> None:
    rng = np.random.default_rng(0)
    solid = rng.random((9, 8, 7)) < 0.06
    points = rng.random((12, 3)) * solid.shape
    normals = rng.normal(size=(12, 3))
    normals[0] = [0, 0, 5]
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    rays = np.array([[0, 0, 1.0], [0.6, 0, 0.8], [-0.48, 0.64, 0.6]])
    expected = slow_open_side(solid, points, normals, rays, 1.0)
    assert (np.abs(expected) > 1).sum() > 3
    np.testing.assert_allclose(open_side(solid, points, normals, rays, 1.0), expected, atol=2e-2)
