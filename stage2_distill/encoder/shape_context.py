"""Shape context: what the surroundings of a point look like at several sizes, as plain numbers for the stem.

A network that starts from colour, normal and position needs thousands of steps before it can tell a seat from a desk
top; how high the surroundings reach, how flat and how upright they are is known without learning. The numbers are
those of multi-scale point classification (Thomas et al. 2018, "Semantic classification of 3D point clouds with
multiscale spherical neighborhoods"): eigenvalues of the neighbourhood's covariance, height statistics, verticality;
and an occupancy profile of the column that a point stands in. Neighbourhoods are blocks of 3 x 3 x 3 cells of a grid
rather than balls, so that everything is sums over cells: the cost is linear in the number of points, and no search
tree is built.

Everything is invariant to a turn about z (up to the grid) and to where the scene lies.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chorus_common.bounds import bounds

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: cell edges in metres; a neighbourhood is three cells wide
CELLS = (0.12, 0.3, 0.7)
#: per cell size: filled share, three spreads, offset and spread in z, lowest and highest point, mean |normal z|
PER_CELL = 9
#: the column: 3 x 3 cells of this edge, in slices of this height from the scene's lowest point up; both metres
COLUMN_CELL, COLUMN_SLICE, COLUMN_SLICES = 0.2, 0.2, 13
WIDTH = PER_CELL * len(CELLS) + COLUMN_SLICES


def shape_context(coord: NDArray[np.floating], normals: NDArray[np.floating]) -> F32:
    """Descriptor [N, WIDTH] of every point.

    Args:
        coord: [N, 3] metres, z up, the lowest point at z = 0.
        normals: [N, 3] unit; only |z| is used, so their sign does not matter.
    """
    points: F64 = np.asarray(coord, dtype=np.float64)
    upright: F64 = np.abs(np.asarray(normals, dtype=np.float64)[:, 2])
    parts = [_block(points, upright, edge) for edge in CELLS]
    return np.concatenate([*parts, _column(points)], axis=1).astype(np.float32)


def _block(coord: F64, upright: F64, edge: float) -> F64:
    """The PER_CELL numbers of each point's block of 3 x 3 x 3 cells; lengths in units of the block's half width."""
    cells, keys, strides, inverse = _cells(np.floor(coord / edge).astype(np.int64))
    local = coord - (cells[inverse] + 0.5) * edge  # moments about the own cell: no cancellation far from the origin
    own, low, high = _cell_sums(inverse, local, upright, coord[:, 2], len(cells))
    total, filled, lowest, highest = _block_sums(keys, strides, own, low, high, edge)

    moments = total / total[:, :1]
    mean = moments[:, 1:4]
    covariance = np.empty((len(cells), 3, 3))
    for (i, j), k in zip(((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)), range(4, 10)):
        covariance[:, i, j] = covariance[:, j, i] = moments[:, k] - mean[:, i] * mean[:, j]
    half = 1.5 * edge
    of_cell = np.column_stack(
        (
            filled / 27,
            np.sqrt(np.maximum(np.linalg.eigvalsh(covariance), 0)) / half,  # ascending
            mean[:, 2] / half,
            np.sqrt(np.maximum(covariance[:, 2, 2], 0)) / half,
            lowest / half,
            highest / half,
            moments[:, 10],
        )
    )
    rows = of_cell[inverse]
    # the mean height and the lowest and highest point are told from the point's own height
    rows[:, 4] -= local[:, 2] / half
    rows[:, 6:8] -= coord[:, 2:] / half
    return rows


def _column(coord: F64) -> F64:
    """Share of the nine columns around each point that hold something, per slice of height; [N, COLUMN_SLICES]."""
    flat = np.floor(coord[:, :2] / COLUMN_CELL).astype(np.int64)
    cells, keys, strides, inverse = _cells(np.column_stack((flat, np.zeros(len(flat), dtype=np.int64))))
    level = np.clip((coord[:, 2] / COLUMN_SLICE).astype(np.int64), 0, COLUMN_SLICES - 1)
    own = np.zeros((len(cells), COLUMN_SLICES))
    own[inverse, level] = 1
    return _column_sums(keys, strides, own)[inverse] / 9


def _cells(cell: I64) -> tuple[I64, I64, I64, I64]:
    """Distinct cells [M, 3], their keys [M] ascending, what one step along each axis adds to a key [3], and the cell
    of each row. No key of a neighbour is that of another cell: there is an empty layer all around.
    """
    lowest, highest = bounds(cell)
    low = lowest - 1
    size = highest - low + 2
    strides = np.array([size[1] * size[2], size[2], 1])
    keys, first, inverse = np.unique((cell - low) @ strides, return_index=True, return_inverse=True)
    return cell[first], keys, strides, inverse


@njit(nogil=True, cache=True, error_model="numpy")
def _cell_sums(inverse: I64, local: F64, upright: F64, height: F64, n_cells: int) -> tuple[F64, F64, F64]:
    """Per cell: count, sums of x y z xx yy zz xy xz yz and of `upright` [M, 11]; lowest and highest point [M]."""
    own = np.zeros((n_cells, 11))
    low, high = np.full(n_cells, np.inf), np.full(n_cells, -np.inf)
    for i in range(len(inverse)):
        k = inverse[i]
        x, y, z = local[i, 0], local[i, 1], local[i, 2]
        own[k, 0] += 1
        own[k, 1] += x
        own[k, 2] += y
        own[k, 3] += z
        own[k, 4] += x * x
        own[k, 5] += y * y
        own[k, 6] += z * z
        own[k, 7] += x * y
        own[k, 8] += x * z
        own[k, 9] += y * z
        own[k, 10] += upright[i]
        low[k] = min(low[k], height[i])
        high[k] = max(high[k], height[i])
    return own, low, high


@njit(nogil=True, cache=True, error_model="numpy")
def _first_at_least(keys: I64, wanted: int, start: int) -> int:
    """The first place from `start` on whose key is not below `wanted`."""
    j = start
    while j < len(keys) and keys[j] < wanted:
        j += 1
    return j


@njit(nogil=True, cache=True, error_model="numpy")
def _block_sums(keys: I64, strides: I64, own: F64, low: F64, high: F64, edge: float) -> tuple[F64, F64, F64, F64]:
    """`_cell_sums` of each cell's 3 x 3 x 3 block, moments about the block's middle; how many of its cells are filled;
    its lowest and highest point. Neighbours are found by walking the sorted keys once per offset.
    """
    n_cells = len(keys)
    total, filled = np.zeros((n_cells, 11)), np.zeros(n_cells)
    lowest, highest = low.copy(), high.copy()
    for a in range(-1, 2):
        for b in range(-1, 2):
            for c in range(-1, 2):
                step = a * strides[0] + b * strides[1] + c * strides[2]
                dx, dy, dz = a * edge, b * edge, c * edge
                j = 0
                for i in range(n_cells):
                    j = _first_at_least(keys, keys[i] + step, j)
                    if j == n_cells:
                        break
                    if keys[j] != keys[i] + step:
                        continue
                    n, sx, sy, sz = own[j, 0], own[j, 1], own[j, 2], own[j, 3]
                    total[i, 0] += n
                    total[i, 1] += sx + n * dx
                    total[i, 2] += sy + n * dy
                    total[i, 3] += sz + n * dz
                    total[i, 4] += own[j, 4] + 2 * dx * sx + n * dx * dx
                    total[i, 5] += own[j, 5] + 2 * dy * sy + n * dy * dy
                    total[i, 6] += own[j, 6] + 2 * dz * sz + n * dz * dz
                    total[i, 7] += own[j, 7] + dx * sy + dy * sx + n * dx * dy
                    total[i, 8] += own[j, 8] + dx * sz + dz * sx + n * dx * dz
                    total[i, 9] += own[j, 9] + dy * sz + dz * sy + n * dy * dz
                    total[i, 10] += own[j, 10]
                    filled[i] += 1
                    lowest[i] = min(lowest[i], low[j])
                    highest[i] = max(highest[i], high[j])
    return total, filled, lowest, highest


@njit(nogil=True, cache=True, error_model="numpy")
def _column_sums(keys: I64, strides: I64, own: F64) -> F64:
    """Sums [M, S] of `own` over each cell's 3 x 3 neighbours."""
    n_cells = len(keys)
    total = np.zeros_like(own)
    for a in range(-1, 2):
        for b in range(-1, 2):
            step = a * strides[0] + b * strides[1]
            j = 0
            for i in range(n_cells):
                j = _first_at_least(keys, keys[i] + step, j)
                if j == n_cells:
                    break
                if keys[j] == keys[i] + step:
                    for s in range(own.shape[1]):
                        total[i, s] += own[j, s]
    return total
