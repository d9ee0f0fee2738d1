"""Elastic distortion: equal to plain blurring of the noise that is drawn, alike to noise on a whole grid, and small."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy import ndimage

from chorus_common.runtime.config import load_config
from chorus_common.runtime.errors import ConfigError
from chorus_common.scene import GaussianScene
from stage2_distill.data.augment import AugmentConfig
from stage2_distill.data.elastic import elastic
from tests.stage2.store_fakes import random_scene


def scene_at(means: np.ndarray) -> GaussianScene:
    scene = random_scene(np.random.default_rng(0), len(means))
    return replace(scene, means=means.astype(np.float32))


def plain(means: np.ndarray, seed: int, cell: float, magnitude: float) -> np.ndarray:
    """Node by node: noise in the order of the nodes within 3 of a Gaussian, a triangular filter, trilinear weights."""
    where = (means.astype(np.float64) - means.min(0)) / cell
    base = np.floor(where).astype(int)
    near = sorted({tuple(b + o) for b in base for o in product(range(-2, 4), repeat=3)})
    noise = dict(zip(near, np.random.default_rng(seed).standard_normal((len(near), 3), dtype=np.float32)))
    out = []
    for mean, at, low in zip(means, where, base):
        total = np.zeros(3)
        for node in product(*(range(b - 2, b + 4) for b in low)):
            weight = 1.0
            for x, n in zip(at, node):  # a corner's weight falls with distance, the filter spreads it
                corners = ((np.floor(x), 1 - x % 1), (np.floor(x) + 1, x % 1))
                weight *= sum(share * max(0, 3 - abs(n - corner)) / 9 for corner, share in corners)
            total += weight * noise[node]
        out.append(mean + magnitude * total)
    return np.array(out)


@pytest.mark.parametrize(("cell", "magnitude"), [(0.2, 0.4), (0.8, 1.6), (10.0, 1.0)])
def test_it_equals_plain_interpolation_of_blurred_noise(cell: float, magnitude: float) -> None:
    scene = scene_at(np.random.default_rng(4).uniform(-1, 2, (30, 3)) * [1, 1, 0.3])
    moved = elastic(scene, np.random.default_rng(5), cell, magnitude)
    np.testing.assert_allclose(moved.means, plain(scene.means, 5, cell, magnitude), atol=2e-5)
    assert np.abs(moved.means - scene.means).max() > 1e-3
    np.testing.assert_array_equal(moved.scales, scene.scales)


def whole_grid(means: np.ndarray, rng: np.random.Generator, cell: float, magnitude: float) -> np.ndarray:
    """Displacements by noise on all nodes of the bounding box, with margin enough that its border is out of reach."""
    where = (means - means.min(0)) / cell + 4
    noise = rng.standard_normal((3, *(where.max(0).astype(int) + 6)), dtype=np.float32)
    for _ in range(2):
        for axis in (1, 2, 3):
            noise = ndimage.uniform_filter1d(noise, 3, axis=axis, mode="constant")
    return magnitude * np.stack([ndimage.map_coordinates(n, where.T, order=1) for n in noise], axis=1)


def test_amplitude_and_smoothness_are_those_of_noise_on_a_whole_grid() -> None:
    """Over a room's walls: standard deviation, and correlation between points at several distances."""
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 4, (1500, 3))
    points[np.arange(1500), rng.integers(3, size=1500)] = 0.0
    pairs = np.concatenate([points, *(points + np.array([step, 0, 0]) for step in (0.05, 0.2, 0.5, 1.5))])
    found = []
    for draw in range(6):
        moved = elastic(scene_at(pairs), np.random.default_rng(draw), 0.2, 0.4).means - pairs
        dense = whole_grid(pairs, np.random.default_rng(100 + draw), 0.2, 0.4)
        for shift in (moved, dense):
            at, *others = np.split(shift, 5)
            found.append([at.std(), *(np.corrcoef(at.ravel(), other.ravel())[0, 1] for other in others)])
    ours, grid = np.mean(found[::2], axis=0), np.mean(found[1::2], axis=0)
    assert ours[0] == pytest.approx(grid[0], rel=0.05)
    np.testing.assert_allclose(ours[1:], grid[1:], atol=0.05)
    assert ours[1] > 0.98 > 0.2 > abs(ours[-1])


def test_a_far_floater_costs_nothing() -> None:
    near = np.random.default_rng(2).uniform(0, 3, (2000, 3))
    far = scene_at(np.concatenate([near, [[500.0, -400.0, 300.0], [1e30, 0, 0]]]))
    tracemalloc.start()
    moved = elastic(far, np.random.default_rng(0), 0.2, 0.4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20
    assert np.isfinite(moved.means).all()
    assert 0.01 < np.abs(moved.means[:2001] - far.means[:2001]).max() < 1


def test_neighbours_across_a_cells_border_move_alike() -> None:
    means = np.array([[0, 0, 0], [0.59999, 0, 0], [0.60001, 0, 0], [50.0, 0, 0], [50.0001, 0, 0]])
    moved = elastic(scene_at(means), np.random.default_rng(3), 0.2, 0.4).means - means
    assert np.abs(moved[1] - moved[2]).max() < 1e-4
    assert np.abs(moved[3] - moved[4]).max() < 2e-3
    assert np.abs(moved[1] - moved[3]).max() > 1e-3


@pytest.mark.parametrize("value", ["[[0, 0.4]]", "[[-0.2, 0.4]]", "[[0.2, -1]]", "[[nan, 1]]"])
def test_cells_without_size_are_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"'elastic\.0\.[01]': Input should be"):
        load_config(AugmentConfig, None, [f"elastic={value}"])
