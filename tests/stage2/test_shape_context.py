"""Shape context against a point-by-point twin, and its invariances."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stage2_distill.encoder.shape_context import (
    CELLS,
    COLUMN_CELL,
    COLUMN_SLICE,
    COLUMN_SLICES,
    PER_CELL,
    WIDTH,
    shape_context,
)


def cloud(seed: int, n: int = 60, size: float = 2.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    coord = rng.uniform(0, size, (n, 3)) * [1, 1, 1.4]
    coord[:, 2] -= coord[:, 2].min()
    normals = rng.normal(size=(n, 3))
    return coord, normals / np.linalg.norm(normals, axis=1, keepdims=True)


def twin(coord: NDArray[np.float64], normals: NDArray[np.float64]) -> NDArray[np.float64]:
    """The definition, one point at a time."""
    out = []
    for p in coord:
        row: list[float] = []
        for edge in CELLS:
            near = np.abs(np.floor(coord / edge) - np.floor(p / edge)).max(1) <= 1
            q, half = coord[near], 1.5 * edge
            centred = q - q.mean(0)
            covariance = centred.T @ centred / len(q)
            row.append(len(np.unique(np.floor(q / edge), axis=0)) / 27)
            row += list(np.sqrt(np.maximum(np.linalg.eigvalsh(covariance), 0)) / half)
            row += [(q[:, 2].mean() - p[2]) / half, np.sqrt(covariance[2, 2]) / half]
            row += [(q[:, 2].min() - p[2]) / half, (q[:, 2].max() - p[2]) / half]
            row.append(np.abs(normals[near, 2]).mean())
        flat = np.floor(coord[:, :2] / COLUMN_CELL)
        own = np.floor(p[:2] / COLUMN_CELL)
        level = np.minimum(np.floor(coord[:, 2] / COLUMN_SLICE), COLUMN_SLICES - 1)
        for k in range(COLUMN_SLICES):
            held = [
                bool(((flat == own + np.array([dx, dy])).all(1) & (level == k)).any())
                for dx, dy in itertools.product((-1, 0, 1), repeat=2)
            ]
            row.append(sum(held) / 9)
        out.append(row)
    return np.array(out)


@given(st.integers(0, 2**31), st.integers(1, 80), st.floats(0.2, 4))
@settings(max_examples=25, deadline=None)
def test_equals_the_definition(seed: int, n: int, size: float) -> None:
    coord, normals = cloud(seed, n, size)
    found = shape_context(coord, normals)
    assert found.shape == (n, WIDTH)
    np.testing.assert_allclose(found, twin(coord, normals), atol=2e-5)


def test_order_of_points_does_not_matter() -> None:
    coord, normals = cloud(3, 200)
    shuffle = np.random.default_rng(0).permutation(len(coord))
    np.testing.assert_allclose(
        shape_context(coord[shuffle], normals[shuffle]), shape_context(coord, normals)[shuffle], atol=1e-6
    )


def test_moving_by_whole_cells_changes_nothing() -> None:
    coord, normals = cloud(4, 200)
    shift = np.array([42.0, -21.0, 0.0])  # a multiple of all cell edges
    np.testing.assert_allclose(shape_context(coord + shift, normals), shape_context(coord, normals), atol=1e-4)


def test_tells_a_floor_from_a_wall() -> None:
    a, b = np.meshgrid(np.arange(0, 3, 0.05) + 0.01, np.arange(0, 3, 0.05) + 0.01)
    flat = np.column_stack((a.ravel(), b.ravel(), np.zeros(a.size)))
    floor = shape_context(flat, np.tile([0.0, 0, 1], (len(flat), 1)))
    wall = shape_context(flat[:, [0, 2, 1]], np.tile([0.0, 1, 0], (len(flat), 1)))
    for s in range(len(CELLS)):
        first = s * PER_CELL
        assert np.abs(floor[:, first + 1]).max() < 1e-3  # both are flat: the smallest spread vanishes
        assert np.abs(wall[:, first + 1]).max() < 1e-3
        assert floor[:, first + 5].max() < 1e-3 < 0.1 < np.median(wall[:, first + 5])  # but only one is upright
        assert floor[:, first + 8].min() == pytest.approx(1)
        assert wall[:, first + 8].max() == pytest.approx(0)
