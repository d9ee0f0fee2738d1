"""Compiled loops against slow and obvious twins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from chorus_common.scene import GaussianScene, quats_to_rotations
from chorus_common.viewpoints.kernels import in_sight, share_of_hits
from chorus_common.viewpoints.occupancy import occupy
from chorus_common.viewpoints.rooms import label_rooms
from tests.chorus_common.viewpoints.buildings import make_building


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_a_ray_ends_where_small_steps_along_it_end(seed: int) -> None:
    rng = np.random.default_rng(seed)
    solid = rng.uniform(size=(7, 6, 5)) < 0.15
    voxel = np.array([rng.integers(n) for n in solid.shape])
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    reach = rng.uniform(0.5, 8)
    path = voxel + 0.5 + np.arange(0, reach, 1e-4)[:, None] * direction
    inside = ((path >= 0) & (path < solid.shape)).all(axis=1)
    path = path[: len(path) if inside.all() else int(inside.argmin())]
    cells = np.floor(path).astype(int)
    other = (cells != voxel).any(axis=1)
    slow = bool(solid[tuple(cells[other].T)].any())
    fast = share_of_hits(solid, voxel[None].astype(np.int64), direction[None], reach)[0]
    corner = np.abs(path - np.rint(path)).max(axis=1).min() < 1e-3  # steps may jump over the corner of a voxel
    assert bool(fast) == slow or corner or abs(reach - np.linalg.norm(path[-1] - path[0])) < 1e-3
    target = voxel + 0.5 + reach * direction
    assert in_sight(solid, voxel + 0.5, target[None], 0.0)[0] == (fast == 0)


def test_the_surface_of_gaussians_is_their_area_times_opacity() -> None:
    scene = make_building(0, 1, 1, garden=0, floater_share=0).scene
    grid = occupy(scene, np.eye(3))
    scales = np.sort(scene.scales.astype(np.float64), axis=1)
    total = (2 * np.pi * scales[:, 1] * scales[:, 2] * scene.opacities).sum() / grid.step**2
    assert grid.area.sum() == pytest.approx(total, rel=0.02)  # a little reaches beyond the grid


def test_a_gaussian_is_spread_as_samples_of_it_are() -> None:
    scene = make_building(0, 1, 1, garden=0, floater_share=0).scene.select(np.arange(40))
    scene = GaussianScene(scene.means, scene.quats, scene.scales * 4, scene.opacities, scene.colors)
    grid = occupy(scene, np.eye(3))
    rng = np.random.default_rng(0)
    slow = np.zeros_like(grid.area, dtype=np.float64)
    axes = quats_to_rotations(scene.quats.astype(np.float64))
    for i in range(len(scene)):
        scales = scene.scales[i].astype(np.float64)
        first, second = np.argsort(-scales)[:2]
        points = scene.means[i] + (
            rng.normal(size=(20_000, 1)) * scales[first] * axes[i, :, first]
            + rng.normal(size=(20_000, 1)) * scales[second] * axes[i, :, second]
        )
        voxels = np.floor(grid.voxels_of(points)).astype(int)
        voxels = voxels[((voxels >= 0) & (voxels < grid.area.shape)).all(axis=1)]
        each = 2 * np.pi * scales[first] * scales[second] * scene.opacities[i] / grid.step**2 / 20_000
        np.add.at(slow, tuple(voxels.T), each)
    smooth = [ndimage.uniform_filter(area.astype(np.float64), 3, mode="constant") for area in (grid.area, slow)]
    assert np.abs(smooth[0] - smooth[1]).sum() < 0.25 * smooth[1].sum()  # the lattice lacks the tails


def test_rooms_are_split_at_doors_and_not_by_furniture() -> None:
    free = np.zeros((60, 40), dtype=bool)
    free[2:28, 2:38] = free[32:58, 2:38] = True
    free[28:32, 15:24] = True  # a door of 9 columns
    free[10:14, 10:20] = False  # a wardrobe
    labels = label_rooms(free, 0.1)
    assert (labels[~free] == 0).all()
    assert len(np.unique(labels[free])) == 2
    assert len(np.unique(labels[2:27, 2:38][free[2:27, 2:38]])) == 1
    free[28:32, 4:36] = True  # now one wide room
    assert len(np.unique(label_rooms(free, 0.1)[free])) == 1
