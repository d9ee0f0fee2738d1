"""Compiled loops over the rows of the sparse matrix. Every order of additions is fixed by the data."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]


@njit(nogil=True, cache=True, error_model="numpy")
def count_rows(gaussian_ids: I32, row_of: I64, counts: I64) -> None:
    """counts [N + 1]: add one at row + 1 for every hit."""
    for i in range(len(gaussian_ids)):
        counts[row_of[gaussian_ids[i]] + 1] += 1


@njit(nogil=True, cache=True, error_model="numpy")
def scatter_hits(
    cells: I32, gaussian_ids: I32, hit_weights: F32, row_of: I64, base: int, cursor: I64, columns: I32, weights: F32
) -> None:
    """Append one view's hits to their rows; hits come by ascending cell, so columns stay ascending in every row."""
    for i in range(len(cells)):
        row = row_of[gaussian_ids[i]]
        k = cursor[row]
        columns[k] = base + cells[i]
        weights[k] = hit_weights[i]
        cursor[row] = k + 1


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def gather_sums(
    indptr: I64,
    columns: I32,
    weights: F32,
    features: F32,
    mask: NDArray[np.bool_],
    masked: bool,
    begin: int,
    end: int,
    origin: int,
    sums: F32,
    total: F32,
) -> None:
    """sums[r - origin] = sum of weights[k] * features[columns[k]] over the entries k of row r, in order, for rows
    begin..end-1.

    Four entries per pass over the channels, the first of which writes and does not read: rows with few entries, the
    common case, touch the output once. The order of additions is fixed by the data.
    """
    channels = features.shape[1]
    chosen = np.zeros(4, np.int64)
    scale = np.zeros(4, np.float32)
    for r in range(begin, end):
        out = sums[r - origin]
        row_total = 0.0
        fresh = True
        n = 0
        k, stop = indptr[r], indptr[r + 1]
        while k < stop or n > 0:
            while k < stop and n < 4:
                if not masked or mask[columns[k]]:
                    chosen[n] = columns[k]
                    scale[n] = weights[k]
                    row_total += weights[k]
                    n += 1
                k += 1
            if n == 0:
                break
            for j in range(n, 4):  # fill up with nothing
                chosen[j] = chosen[0]
                scale[j] = 0
            f0, f1, f2, f3 = features[chosen[0]], features[chosen[1]], features[chosen[2]], features[chosen[3]]
            w0, w1, w2, w3 = scale[0], scale[1], scale[2], scale[3]
            if fresh:
                for c in range(channels):
                    out[c] = (w0 * f0[c] + w1 * f1[c]) + (w2 * f2[c] + w3 * f3[c])
            else:
                for c in range(channels):
                    out[c] += (w0 * f0[c] + w1 * f1[c]) + (w2 * f2[c] + w3 * f3[c])
            fresh = False
            n = 0
        if fresh:
            out[:] = 0
        total[r - origin] = row_total


@njit(nogil=True, cache=True, error_model="numpy")
def transpose(indptr: I64, columns: I32, weights: F32, n_columns: int) -> tuple[I64, I32, F32]:
    """CSR to CSC by a counting sort; rows ascend within each column."""
    start = np.zeros(n_columns + 1, np.int64)
    for k in range(len(columns)):
        start[columns[k] + 1] += 1
    for c in range(n_columns):
        start[c + 1] += start[c]
    cursor = start[:-1].copy()
    rows, out = np.empty(len(columns), np.int32), np.empty(len(columns), np.float32)
    for r in range(len(indptr) - 1):
        for k in range(indptr[r], indptr[r + 1]):
            at = cursor[columns[k]]
            rows[at] = r
            out[at] = weights[k]
            cursor[columns[k]] = at + 1
    return start, rows, out


@njit(nogil=True, cache=True, error_model="numpy")
def keep_views(indptr: I64, columns: I32, weights: F32, new_view: I32, cells: int) -> tuple[I64, I32, F32]:
    """Rows without the entries whose view maps to -1, the others renumbered."""
    kept = np.zeros(len(indptr), np.int64)
    out_columns, out_weights = np.empty(len(columns), np.int32), np.empty(len(columns), np.float32)
    n = 0
    for r in range(len(indptr) - 1):
        for k in range(indptr[r], indptr[r + 1]):
            view = new_view[columns[k] // cells]
            if view >= 0:
                out_columns[n] = view * cells + columns[k] % cells
                out_weights[n] = weights[k]
                n += 1
        kept[r + 1] = n
    return kept, out_columns[:n].copy(), out_weights[:n].copy()


@njit(nogil=True, cache=True, error_model="numpy")
def interleave(
    ptr_a: I64,
    columns_a: I32,
    weights_a: F32,
    ptr_b: I64,
    columns_b: I32,
    weights_b: F32,
    shift: int,
    indptr: I64,
    columns: I32,
    weights: F32,
) -> None:
    """Row by row: a's entries, then b's with their columns shifted."""
    for r in range(len(indptr) - 1):
        n = indptr[r]
        for k in range(ptr_a[r], ptr_a[r + 1]):
            columns[n], weights[n] = columns_a[k], weights_a[k]
            n += 1
        for k in range(ptr_b[r], ptr_b[r + 1]):
            columns[n], weights[n] = columns_b[k] + shift, weights_b[k]
            n += 1


@njit(nogil=True, cache=True, error_model="numpy")
def row_visibility(indptr: I64, columns: I32, weights: F32, cells: int, weight: F32, n_views: I32) -> None:
    """Row sums (added in float64) and the number of distinct views, which are runs because columns ascend."""
    for r in range(len(indptr) - 1):
        total, views, last = 0.0, 0, -1
        for k in range(indptr[r], indptr[r + 1]):
            total += weights[k]
            view = columns[k] // cells
            if view != last:
                views += 1
                last = view
        weight[r] = total
        n_views[r] = views
