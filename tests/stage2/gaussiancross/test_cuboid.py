"""Cuboid normalisation: invertible, nothing lost, and pictures that do not know of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from chorus_common.runtime.errors import SceneError
from stage2_distill.gaussiancross.cuboid import Cuboid, cell_centres
from stage2_distill.gaussiancross.raster.cpu import rasterize_cpu
from tests.stage2.gaussiancross.splat_twin import some_camera, some_gaussians

CLOUDS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 60), st.just(3)), elements=st.floats(-500, 500, width=32, allow_nan=False)
)


@settings(max_examples=60, deadline=None)
@given(CLOUDS, st.tuples(*[st.integers(2, 9)] * 3))
def test_round_trip_loses_nothing(points: np.ndarray, shape: tuple[int, int, int]) -> None:
    cuboid = Cuboid.of(points)
    inside = cuboid.forward(points)
    assert (np.abs(inside) < 0.5).all()
    np.testing.assert_allclose(cuboid.inverse(inside), points, atol=1e-9 * np.abs(points).max() + 1e-12)
    homogeneous = np.concatenate([inside, np.ones((len(points), 1))], axis=1)
    np.testing.assert_allclose(
        (homogeneous @ cuboid.to_world.T)[:, :3], points, atol=1e-9 * np.abs(points).max() + 1e-9
    )
    # every point lies in the cell that it is sent to: none is clipped into another
    cells = cuboid.cells(points, shape)
    assert (np.abs(inside - cell_centres(shape)[cells]) <= 0.5 / np.array(shape) + 1e-9).all()


@pytest.mark.parametrize("size", [(8.0, 2.0, 2.7), (1.0, 30.0, 0.5), (3.0, 3.0, 0.0)])
def test_each_axis_fills_its_own_extent(size: tuple[float, float, float]) -> None:
    points = np.random.default_rng(0).random((4000, 3)) * size
    inside = Cuboid.of(points).forward(points)
    spans = np.ptp(inside, axis=0)
    thick = np.array(size) > 0
    assert (spans[thick] > 0.99).all()
    assert (spans[~thick] == 0).all()  # a flat scene keeps its plane, in the middle


def test_a_long_room_uses_more_cells_than_in_an_isotropic_cube() -> None:
    points = np.random.default_rng(1).random((20000, 3)) * (9.0, 3.0, 2.5)
    shape = (24, 24, 24)
    cuboid = Cuboid.of(points)
    cube = Cuboid(cuboid.centre, np.full(3, cuboid.size.max()))
    own, isotropic = (len(np.unique(c.cells(points, shape))) for c in (cuboid, cube))
    assert own > 3 * isotropic


def test_a_camera_goes_along_pixel_by_pixel() -> None:
    """Gaussians in the cuboid, seen by its camera, give the picture of the same Gaussians in the world."""
    means, quats, scales, opacities, values = some_gaussians(0, 50, 4)
    quats[:] = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)  # axis-aligned: a diagonal map keeps them Gaussians
    view, k = some_camera(36, 28)
    cuboid = Cuboid.of(means.numpy() * [1.0, 2.0, 0.5])
    inside = torch.from_numpy(cuboid.forward(means.numpy()))
    small = scales / torch.from_numpy(cuboid.size)
    moved = torch.from_numpy(cuboid.viewmats(view.numpy()))
    world = rasterize_cpu(means, quats, scales, opacities, values, view, k, 36, 28)
    normalised = rasterize_cpu(inside, quats, small, opacities, values, moved, k, 36, 28)
    for a, b in zip(world, normalised):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_no_points_is_said() -> None:
    with pytest.raises(SceneError, match="room7: has no points"):
        Cuboid.of(np.zeros((0, 3)), who="room7")
    with pytest.raises(SceneError, match="not finite"):
        Cuboid.of(np.array([[0, np.nan, 0]]))
