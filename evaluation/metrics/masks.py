"""Masks in any common form, and how many vertices each shares with each instance of the ground truth.

The official algorithms AND a dense vertex mask per (prediction, ground truth) pair: P x G x V. Here every mask index is
looked at once and counted into its instance, and where vertices of a mask follow each other as those of an instance do,
whole stretches are counted at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from evaluation.metrics.semantic import MetricError

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Masks = Any  # see `mask_batches`

#: Cells of the (mask, group) table and mask indices of one pass: they bound the memory of a scene whatever the number
#: of masks, and a pass of this size stays in a processor's second-level cache.
_TABLE_CELLS = 1 << 20
_PASS_INDICES = 1 << 16

#: Instance ids below this are looked up in a table.
_SMALL_ID = 1 << 22


@dataclass(frozen=True)
class PackedMasks:
    """Masks as `np.packbits(masks, axis=1)`: bits [P, ceil(V / 8)] u8 and the number of vertices V."""

    bits: NDArray[np.uint8]
    n_vertices: int


@dataclass(frozen=True, eq=False)
class PairCounts:
    """What masks and ground truth share.

    sizes, void [P]: vertices of each mask, and those of them that belong to no instance. The pairs, by mask: mask,
    instance and number of shared vertices (at least one) of every pair of equal class.
    """

    sizes: I64
    void: I64
    mask: I64
    instance: I64
    shared: I64


def mask_batches(
    masks: Masks, n_vertices: int, rows: int, *, who: str = "scene"
) -> Iterator[tuple[NDArray[np.integer], NDArray[np.integer]]]:
    """Vertex indices of up to `rows` masks at a time: (indices, bounds), mask j of the batch is indices[bounds[j] :
    bounds[j + 1]].

    Args:
        masks: a scipy sparse matrix [P, V] (CSR is read in place, the fastest form); `PackedMasks`; a dense array [P,
            V] (non-zero = in the mask); or a sequence of P index arrays.
        n_vertices: V.
    """
    if sparse.issparse(masks):
        if masks.shape[1] != n_vertices:
            raise MetricError(f"{who}: masks cover {masks.shape[1]} vertices, the ground truth {n_vertices}")
        csr = masks.tocsr()
        if not csr.has_canonical_format or not csr.data.all():  # a duplicate is one vertex, a stored zero is none
            csr = csr.copy()
            csr.sum_duplicates()
            csr.eliminate_zeros()
        for start in range(0, csr.shape[0], rows):
            yield csr.indices, csr.indptr[start : start + rows + 1]
        return
    waiting: list[NDArray[np.integer]] = []
    held = 0
    for indices in _mask_rows(masks, n_vertices, who):
        waiting.append(indices)
        held += len(indices)
        if len(waiting) == rows or held > _PASS_INDICES:
            yield _concatenated(waiting)
            waiting, held = [], 0
    if waiting:
        yield _concatenated(waiting)


def _concatenated(rows: list[NDArray[np.integer]]) -> tuple[I64, I64]:
    return np.concatenate(rows).astype(np.int64, copy=False), np.cumsum([0] + [len(indices) for indices in rows])


def _mask_rows(masks: Masks, n_vertices: int, who: str) -> Iterator[NDArray[np.integer]]:
    """Vertex indices of each mask, one at a time, of all forms but the sparse one."""
    if isinstance(masks, PackedMasks):
        if masks.n_vertices != n_vertices or masks.bits.shape[1] != (n_vertices + 7) // 8:
            raise MetricError(f"{who}: masks cover {masks.n_vertices} vertices, the ground truth {n_vertices}")
        for row in masks.bits:
            yield np.flatnonzero(np.unpackbits(row, count=n_vertices))
    elif isinstance(masks, np.ndarray) and masks.ndim == 2 and masks.dtype != object:
        if masks.shape[1] != n_vertices:
            raise MetricError(f"{who}: masks cover {masks.shape[1]} vertices, the ground truth {n_vertices}")
        for row in masks:
            yield np.flatnonzero(row)
    else:
        for row in masks:
            indices = np.asarray(row)
            if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
                raise MetricError(
                    f"{who}: a mask given as indices must be a 1-D integer array, found {indices.dtype} {indices.shape}"
                )
            yield indices


@dataclass(frozen=True, eq=False)
class TruthInstances:
    """Instances of a ground truth, sorted by (class, instance id).

    group [V]: instance of every vertex, -1 void. stretch [V]: the vertex up to which, exclusively, all that follow are
    of the same group (and label and id, so that a group may go on behind it). classes, sizes [G]: of the instances.
    """

    group: I32
    stretch: I32
    classes: I64
    sizes: I64


def count_pairs(masks: Masks, labels: I64, truth: TruthInstances, *, who: str = "scene") -> PairCounts:
    """Count what P masks of classes `labels` share with the instances of a ground truth.

    Raises MetricError naming `who` where masks and labels differ in number, or a mask holds an index twice or out of
    range.
    """
    group, gt_class = truth.group, truth.classes
    p, g = len(labels), len(gt_class)
    sizes, void = np.zeros(p, np.int64), np.zeros(p, np.int64)
    pairs = [(np.zeros(0, np.int64),) * 3]
    stamp = np.full(len(group), -1, dtype=np.int32)
    done = 0
    for indices, bounds in mask_batches(masks, len(group), max(1, _TABLE_CELLS // (g + 1)), who=who):
        rows = slice(done, done + len(bounds) - 1)
        if rows.stop > p:
            raise MetricError(f"{who}: more masks than predicted classes ({p})")
        table = np.zeros((len(bounds) - 1, g + 1), dtype=np.int64)
        row, problem = _tally(indices, bounds, group, truth.stretch, stamp, done, table)
        if problem:
            what = "holds an index outside the ground truth's vertices" if problem == 1 else "lists a vertex twice"
            raise MetricError(f"{who}: mask {done + row} {what} ({len(group)} vertices)")
        sizes[rows], void[rows] = np.diff(bounds), table[:, g]
        mask, instance = np.nonzero(table[:, :g])
        same = gt_class[instance] == labels[rows][mask]
        mask, instance = mask[same], instance[same]
        pairs.append((mask + done, instance, table[mask, instance]))
        done = rows.stop
    if done != p:
        raise MetricError(f"{who}: {done} masks for {p} predicted classes")
    return PairCounts(sizes, void, *(np.concatenate(column) for column in zip(*pairs)))


def ground_truth(labels: NDArray[np.integer], instances: NDArray[np.integer]) -> TruthInstances:
    """Instances of labels and instance ids [V]; negative ones are void."""
    top = int(instances.max(initial=-1))
    class_of = np.full(top + 1 if top < _SMALL_ID else 0, -1, dtype=np.int64)
    if top >= _SMALL_ID or not _one_class_each(labels, instances, class_of):
        # Ids too large for a table, or ids that several classes share: give every (class, id) pair an id of its own.
        known = (labels >= 0) & (instances >= 0)
        pairs, inverse = np.unique(np.stack([labels[known], instances[known]]), axis=1, return_inverse=True)
        instances = np.full(len(labels), -1, dtype=np.int64)
        instances[known] = inverse.reshape(-1)
        class_of = pairs[0].astype(np.int64)
    ids = np.flatnonzero(class_of >= 0)
    ids = ids[np.argsort(class_of[ids], kind="stable")]
    rank = np.full(len(class_of), -1, dtype=np.int32)
    rank[ids] = np.arange(len(ids))
    group, stretch = np.empty((2, len(labels)), np.int32)
    sizes = np.zeros(len(ids), np.int64)
    _assign_groups(labels, instances, rank, group, stretch, sizes)
    return TruthInstances(group, stretch, class_of[ids], sizes)


@njit(cache=True, nogil=True)
def _one_class_each(labels, instances, class_of):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Fill the class of every instance id; False as soon as an id has two."""
    before_c, before_i = -1, -1
    for v in range(labels.shape[0]):
        c, i = labels[v], instances[v]
        if c == before_c and i == before_i:
            continue
        before_c, before_i = c, i
        if c >= 0 and i >= 0:
            if class_of[i] < 0:
                class_of[i] = c
            elif class_of[i] != c:
                return False
    return True


@njit(cache=True, nogil=True)
def _assign_groups(labels, instances, rank, group, stretch, sizes):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    n, start = labels.shape[0], 0
    while start < n:
        c, i = labels[start], instances[start]
        stop = start + 1
        while stop < n and labels[stop] == c and instances[stop] == i:
            stop += 1
        g = rank[i] if c >= 0 and i >= 0 else -1
        group[start:stop] = g
        stretch[start:stop] = stop
        if g >= 0:
            sizes[g] += stop - start
        start = stop


@njit(cache=True, nogil=True)
def _disorder(mask):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """How many vertices do not come after the one before, and how many do not come right after it."""
    following, before = mask[1:], mask[:-1]
    back, gaps = 0, 0
    for k in range(following.shape[0]):
        back += 1 if following[k] <= before[k] else 0
        gaps += 1 if following[k] != before[k] + 1 else 0
    return back, gaps


@njit(cache=True, nogil=True)
def _tally(indices, bounds, group, stretch, stamp, first, table):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Count the groups of the masks indices[bounds[j] : bounds[j + 1]] into `table` [masks, G + 1] (last = void).

    Returns (mask, problem): problem 0 none, 1 an index out of range, 2 one that repeats. `first` is the number of the
    first mask here, so that one `stamp` [V], filled with -1, serves all passes.
    """
    n, void = group.shape[0], table.shape[1] - 1
    for j in range(bounds.shape[0] - 1):
        mask = indices[bounds[j] : bounds[j + 1]]
        m = mask.shape[0]
        if m == 0:
            continue
        back, gaps = _disorder(mask)
        if back == 0:
            if mask[0] < 0 or mask[m - 1] >= n:
                return j, 1
        else:  # only then can anything repeat
            for k in range(m):
                v = mask[k]
                if v < 0 or v >= n:
                    return j, 1
                if stamp[v] == first + j:
                    return j, 2
                stamp[v] = first + j
        if back == 0 and 8 * gaps < m:  # pieces of eight and more: count stretches
            k = 0
            while k < m:
                v = mask[k]
                length = min(stretch[v] - v, m - k)
                if mask[k + length - 1] - v != length - 1:  # ascending, so equal ends mean that nothing is left out
                    length = 1
                    while mask[k + length] == v + length:
                        length += 1
                g = group[v]
                table[j, g if g >= 0 else void] += length
                k += length
        else:
            current, run = void, 0
            for k in range(m):
                g = group[mask[k]]
                if g != current:  # neighbours mostly share their group: count runs, not vertices
                    table[j, current] += run
                    current, run = g if g >= 0 else void, 0
                run += 1
            table[j, current] += run
    return 0, 0
