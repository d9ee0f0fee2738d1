"""Dense tokens pooled under masks: the embedding of a mask without a second pass of the teacher."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from chorus_common.lifting import CellGrid

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


def cell_of_pixels(grid: CellGrid) -> I32:
    """Index [H, W] i32 of the cell in which each pixel lies."""
    rows, cols = np.arange(grid.height) // grid.cell, np.arange(grid.width) // grid.cell
    return (rows[:, None] * grid.cols + cols[None]).astype(np.int32)


def pool_under_masks(ids: I32, tokens: F32, grid: CellGrid) -> F32:
    """Mean token [M, C] f32 under each mask of ids [H, W] (0..M-1, -1 = none), tokens [cells, C].

    A cell counts by the number of its pixels that the mask covers. Ids without pixels get zeros.
    """
    n_masks = int(ids.max(initial=-1)) + 1
    inside = ids >= 0
    pairs = ids[inside].astype(np.int64) * grid.cells + cell_of_pixels(grid)[inside]
    unique, counts = np.unique(pairs, return_counts=True)
    shape = (n_masks, grid.cells)
    weights = sparse.csr_matrix((counts.astype(np.float64), (unique // grid.cells, unique % grid.cells)), shape=shape)
    area = np.asarray(weights.sum(axis=1))
    return ((weights @ tokens.astype(np.float64)) / np.maximum(area, 1)).astype(np.float32)
