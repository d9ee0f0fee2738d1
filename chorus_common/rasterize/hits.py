"""Bring the hits of all tiles into the order of `CellHits`: by (cell, Gaussian), every pair once.

Each row of tiles sorts its own hits (in parallel with the others). With interpolation="nearest" the sorted lists simply
follow each other; with interpolation="bilinear" neighbouring rows of tiles share cells, and the short overlaps are
merged.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

I32 = NDArray[np.int32]
F32 = NDArray[np.float32]
Hits = tuple[I32, I32, F32]

DIGIT_BITS = 11


@njit(nogil=True, cache=True, error_model="numpy")
def sort_and_merge(cells: I32, gaussian_ids: I32, weights: F32) -> Hits:
    """Sort hits [M] by (cell, Gaussian) and add up repeated pairs in their order of arrival.

    Radix sort with digits of at most 11 bits. Plain loops stand where numpy has min, max and slices: those triple the
    time to compile.
    """
    m = len(cells)
    if m == 0:
        return cells.copy(), gaussian_ids.copy(), weights.copy()
    low, high, top = cells[0], cells[0], gaussian_ids[0]
    for i in range(m):
        low, high, top = min(low, cells[i]), max(high, cells[i]), max(top, gaussian_ids[i])
    id_bits, cell_bits = 0, 0
    while (top >> id_bits) > 0:
        id_bits += 1
    while ((high - low) >> cell_bits) > 0:
        cell_bits += 1
    keys, values = np.empty(m, np.int64), np.empty(m, np.float32)
    for i in range(m):
        keys[i] = (np.int64(cells[i] - low) << id_bits) | gaussian_ids[i]
        values[i] = weights[i]
    other_keys, other_values = np.empty(m, np.int64), np.empty(m, np.float32)
    start = np.empty((1 << DIGIT_BITS) + 1, np.int64)
    passes = -(-(id_bits + cell_bits) // DIGIT_BITS)
    for digit in range(passes):
        bits = -(-(id_bits + cell_bits) // passes)
        shift, mask = bits * digit, (1 << bits) - 1
        for b in range(len(start)):
            start[b] = 0
        for i in range(m):
            start[((keys[i] >> shift) & mask) + 1] += 1
        for b in range(1 << bits):
            start[b + 1] += start[b]
        for i in range(m):
            bucket = (keys[i] >> shift) & mask
            other_keys[start[bucket]] = keys[i]
            other_values[start[bucket]] = values[i]
            start[bucket] += 1
        keys, other_keys = other_keys, keys
        values, other_values = other_values, values
    out_cells, out_ids, out_weights = np.empty(m, np.int32), np.empty(m, np.int32), np.empty(m, np.float32)
    n = 0
    for i in range(m):
        if i > 0 and keys[i] == keys[i - 1]:
            out_weights[n - 1] += values[i]
        else:
            out_cells[n] = low + (keys[i] >> id_bits)
            out_ids[n] = keys[i] & ((1 << id_bits) - 1)
            out_weights[n] = values[i]
            n += 1
    return out_cells[:n].copy(), out_ids[:n].copy(), out_weights[:n].copy()


@njit(nogil=True, cache=True, error_model="numpy")
def _merge_two(cells_a: I32, ids_a: I32, weights_a: F32, cells_b: I32, ids_b: I32, weights_b: F32) -> Hits:
    """Two sorted lists as one; a pair that both hold gets the sum, a's weight first."""
    room = len(cells_a) + len(cells_b)
    cells, ids, weights = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.float32)
    i, j, n = 0, 0, 0
    while i < len(cells_a) or j < len(cells_b):
        if j == len(cells_b):
            order = -1
        elif i == len(cells_a):
            order = 1
        elif cells_a[i] != cells_b[j]:
            order = -1 if cells_a[i] < cells_b[j] else 1
        else:
            order = -1 if ids_a[i] < ids_b[j] else (1 if ids_a[i] > ids_b[j] else 0)
        if order <= 0:
            cells[n], ids[n], weights[n] = cells_a[i], ids_a[i], weights_a[i]
            i += 1
            if order == 0:
                weights[n] += weights_b[j]
                j += 1
        else:
            cells[n], ids[n], weights[n] = cells_b[j], ids_b[j], weights_b[j]
            j += 1
        n += 1
    return cells[:n], ids[:n], weights[:n]


def join_sorted(parts: list[Hits]) -> Hits:
    """Sorted lists as one, equal pairs added in list order. Cheap when the lists advance, so that few of them overlap
    at a time."""
    lists = [part for part in parts if len(part[0])]
    if not lists:
        return np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32)
    # the least cell that this list or any later one holds: what lies below is final
    least = np.minimum.accumulate([part[0][0] for part in lists][::-1])[::-1]
    done: list[Hits] = []
    tail = lists[0]
    for part, low in zip(lists[1:], least[1:]):
        cut = int(np.searchsorted(tail[0], low))
        done.append((tail[0][:cut], tail[1][:cut], tail[2][:cut]))
        rest = (tail[0][cut:], tail[1][cut:], tail[2][cut:])
        tail = _merge_two(*rest, *part) if len(rest[0]) else part
    done.append(tail)
    cells, ids, weights = (np.concatenate(column) for column in zip(*done))
    return cells, ids, weights
