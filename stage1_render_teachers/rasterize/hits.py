"""Bring the hits of all tiles into the order of `CellHits`: by (cell, Gaussian), every pair once."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(nogil=True, cache=True, error_model="numpy")
def sort_and_merge(
    cells: NDArray[np.int32],
    gaussian_ids: NDArray[np.int32],
    weights: NDArray[np.float32],
    n_cells: int,
    n_gaussians: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """Sort hits [M] by (cell, Gaussian) with two stable counting sorts and add up repeated pairs in their order of arrival."""
    m = len(cells)
    by_gaussian = np.empty(m, np.int64)
    start = np.zeros(n_gaussians + 1, np.int64)
    for i in range(m):
        start[gaussian_ids[i] + 1] += 1
    for g in range(n_gaussians):
        start[g + 1] += start[g]
    for i in range(m):
        by_gaussian[start[gaussian_ids[i]]] = i
        start[gaussian_ids[i]] += 1
    order = np.empty(m, np.int64)
    start = np.zeros(n_cells + 1, np.int64)
    for i in range(m):
        start[cells[i] + 1] += 1
    for c in range(n_cells):
        start[c + 1] += start[c]
    for j in range(m):
        i = by_gaussian[j]
        order[start[cells[i]]] = i
        start[cells[i]] += 1
    out_cells, out_ids, out_weights = np.empty(m, np.int32), np.empty(m, np.int32), np.empty(m, np.float32)
    n = 0
    for j in range(m):
        i = order[j]
        if n > 0 and out_cells[n - 1] == cells[i] and out_ids[n - 1] == gaussian_ids[i]:
            out_weights[n - 1] += weights[i]
        else:
            out_cells[n], out_ids[n], out_weights[n] = cells[i], gaussian_ids[i], weights[i]
            n += 1
    return out_cells[:n].copy(), out_ids[:n].copy(), out_weights[:n].copy()
