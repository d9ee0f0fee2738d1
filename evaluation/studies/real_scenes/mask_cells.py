"""Masks of a view and the cells of the teachers' grid: one sparse table of shared pixels serves both directions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from chorus_common.lifting import CellGrid

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


def shared_pixels(ids: I32, grid: CellGrid) -> sparse.csr_matrix:
    """Pixels [M, cells] that mask m of ids [H, W] (0..M-1, -1 = none) shares with each cell."""
    rows, cols = np.arange(grid.height) // grid.cell, np.arange(grid.width) // grid.cell
    cells = rows[:, None] * grid.cols + cols[None]
    inside = ids >= 0
    at = ids[inside], cells[inside]
    return sparse.csr_matrix((np.ones(len(at[0])), at), shape=(int(ids.max(initial=-1)) + 1, grid.cells))


def pool_under_masks(ids: I32, features: F32, grid: CellGrid) -> F32:
    """Mean feature [M, C] of the pixels of every mask, of features per cell [cells, C]."""
    shared = shared_pixels(ids, grid)
    area = np.asarray(shared.sum(axis=1))
    return np.asarray(shared @ features.astype(np.float64) / np.maximum(area, 1), dtype=np.float32)


def paint_masks(ids: I32, of_masks: F32, of_cells: F32, grid: CellGrid) -> F32:
    """Values per cell [cells, K]: the mean over its pixels, which have their mask's value [M, K], or their cell's own
    [cells, K] where no mask is.
    """
    shared = shared_pixels(ids, grid)
    rows = np.diff(np.append(np.arange(0, grid.height, grid.cell), grid.height))
    cols = np.diff(np.append(np.arange(0, grid.width, grid.cell), grid.width))
    size = (rows[:, None] * cols[None]).reshape(-1, 1)  # pixels of each cell [cells, 1]
    bare = size - np.asarray(shared.sum(axis=0)).reshape(-1, 1)
    return np.asarray((shared.T @ of_masks.astype(np.float64) + bare * of_cells) / size, dtype=np.float32)
