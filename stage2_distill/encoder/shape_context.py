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

import itertools

import numpy as np
from numpy.typing import NDArray

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
    cells, inverse, tables = _cells(np.floor(coord / edge).astype(np.int64))
    local = coord - (cells[inverse] + 0.5) * edge  # moments about the own cell: no cancellation far from the origin
    x, y, z = local.T
    columns = (np.ones(len(x)), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z, upright)
    own = np.stack([np.bincount(inverse, weights=c, minlength=len(cells)) for c in columns], axis=1)
    low, high = np.full(len(cells), np.inf), np.full(len(cells), -np.inf)
    np.minimum.at(low, inverse, coord[:, 2])
    np.maximum.at(high, inverse, coord[:, 2])

    total = np.zeros((len(cells), 11))
    filled = np.zeros(len(cells))
    lowest, highest = low.copy(), high.copy()
    for offset, (rows, there) in tables:
        dx, dy, dz = (o * edge for o in offset)
        n, sx, sy, sz, xx, yy, zz, xy, xz, yz, up = own[there].T
        total[rows] += np.stack(
            (
                n, sx + n * dx, sy + n * dy, sz + n * dz,
                xx + 2 * dx * sx + n * dx * dx, yy + 2 * dy * sy + n * dy * dy, zz + 2 * dz * sz + n * dz * dz,
                xy + dx * sy + dy * sx + n * dx * dy, xz + dx * sz + dz * sx + n * dx * dz,
                yz + dy * sz + dz * sy + n * dy * dz, up,
            ),
            axis=1,
        )  # fmt: skip
        filled[rows] += 1
        lowest[rows] = np.minimum(lowest[rows], low[there])
        highest[rows] = np.maximum(highest[rows], high[there])

    moments = total / total[:, :1]
    mean = moments[:, 1:4]
    covariance = np.empty((len(cells), 3, 3))
    for (i, j), k in zip(((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)), range(4, 10)):
        covariance[:, i, j] = covariance[:, j, i] = moments[:, k] - mean[:, i] * mean[:, j]
    half = 1.5 * edge
    spread = np.sqrt(np.maximum(np.linalg.eigvalsh(covariance), 0)) / half  # ascending
    vertical = np.sqrt(np.maximum(covariance[:, 2, 2], 0)) / half
    z = coord[:, 2]
    return np.column_stack(
        (
            (filled / 27)[inverse],
            spread[inverse],
            (mean[inverse, 2] - local[:, 2]) / half,
            vertical[inverse],
            (lowest[inverse] - z) / half,
            (highest[inverse] - z) / half,
            moments[inverse, 10],
        )
    )


def _column(coord: F64) -> F64:
    """Share of the nine columns around each point that hold something, per slice of height; [N, COLUMN_SLICES]."""
    flat = np.floor(coord[:, :2] / COLUMN_CELL).astype(np.int64)
    cells, inverse, tables = _cells(np.column_stack((flat, np.zeros(len(flat), dtype=np.int64))), flat=True)
    level = np.clip((coord[:, 2] / COLUMN_SLICE).astype(np.int64), 0, COLUMN_SLICES - 1)
    own = np.zeros((len(cells), COLUMN_SLICES))
    own[inverse, level] = 1
    total = np.zeros_like(own)
    for _, (rows, there) in tables:
        total[rows] += own[there]
    return total[inverse] / 9


def _cells(cell: I64, *, flat: bool = False) -> tuple[I64, I64, list[tuple[tuple[int, int, int], tuple[I64, I64]]]]:
    """Distinct cells [M, 3], the cell of each row, and for every offset to a neighbour (itself among them) the pairs
    (rows, rows of their neighbour) that exist.
    """
    low = cell.min(0) - 1
    size = cell.max(0) - low + 2
    key = ((cell[:, 0] - low[0]) * size[1] + cell[:, 1] - low[1]) * size[2] + cell[:, 2] - low[2]
    keys, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    tables = []
    for dx, dy, dz in itertools.product((-1, 0, 1), (-1, 0, 1), (0,) if flat else (-1, 0, 1)):
        wanted = keys + (dx * size[1] + dy) * size[2] + dz
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        rows = np.flatnonzero(keys[at] == wanted)
        tables.append(((dx, dy, dz), (rows, at[rows])))
    return cell[first], inverse, tables
