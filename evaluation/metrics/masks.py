"""Masks in any common form, and how many vertices each shares with each instance of the ground truth.

The official algorithms AND a dense vertex mask per (prediction, ground truth) pair: P x G x V. Here every mask index is
looked at once and counted into its instance, and where vertices of a mask follow each other as those of an instance do,
whole stretches are counted at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
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
    """Instances of a ground truth, sorted by (class, instance id), as runs: vertices of one label and id that follow
    each other.

    run_start [R + 1]: first vertex of every run, and the number of vertices. run_group [R]: instance of the run, -1
    void. classes, sizes [G]: of the instances. label_range: least and largest label.
    """

    run_start: I64
    run_group: I64
    classes: I64
    sizes: I64
    label_range: tuple[int, int]

    @cached_property
    def group(self) -> I32:
        """Instance of every vertex [V], -1 void; only masks in many pieces need it."""
        return np.repeat(self.run_group.astype(np.int32), np.diff(self.run_start))

    @property
    def n_vertices(self) -> int:
        return int(self.run_start[-1])


def count_pairs(masks: Masks, labels: I64, truth: TruthInstances, *, who: str = "scene") -> PairCounts:
    """Count what P masks of classes `labels` share with the instances of a ground truth.

    Raises MetricError naming `who` where masks and labels differ in number, or a mask holds an index twice or out of
    range.
    """
    gt_class, n = truth.classes, truth.n_vertices
    p, g = len(labels), len(gt_class)
    sizes, void = np.zeros(p, np.int64), np.zeros(p, np.int64)
    pairs = [(np.zeros(0, np.int64),) * 3]
    done = 0
    for indices, bounds in mask_batches(masks, n, max(1, _TABLE_CELLS // (g + 1)), who=who):
        rows = slice(done, done + len(bounds) - 1)
        if rows.stop > p:
            raise MetricError(f"{who}: more masks than predicted classes ({p})")
        table = np.zeros((len(bounds) - 1, g + 1), dtype=np.int64)
        left = np.zeros(len(table), dtype=np.bool_)
        row, problem = _count_stretches(indices, bounds, truth.run_start, truth.run_group, table, left)
        if not problem and left.any():
            row, problem = _count_vertices(indices, bounds, left, truth.group, table)
        if problem:
            what = "holds an index outside the ground truth's vertices" if problem == 1 else "lists a vertex twice"
            raise MetricError(f"{who}: mask {done + row} {what} ({n} vertices)")
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
    start = np.empty(len(labels) + 1, np.int64)
    start = start[: _runs(labels, instances, start) + 1]
    of_run, id_of_run = labels[start[:-1]], instances[start[:-1]]
    label_range = (int(of_run.min(initial=0)), int(of_run.max(initial=-1)))
    top = int(id_of_run.max(initial=-1))
    class_of = np.full(top + 1 if top < _SMALL_ID else 0, -1, dtype=np.int64)
    if top >= _SMALL_ID or not _one_class_each(of_run, id_of_run, class_of):
        # Ids too large for a table, or ids that several classes share: give every (class, id) pair an id of its own.
        known = (of_run >= 0) & (id_of_run >= 0)
        pairs, inverse = np.unique(np.stack([of_run[known], id_of_run[known]]), axis=1, return_inverse=True)
        id_of_run = np.full(len(of_run), -1, dtype=np.int64)
        id_of_run[known] = inverse.reshape(-1)
        class_of = pairs[0].astype(np.int64)
    ids = np.flatnonzero(class_of >= 0)
    ids = ids[np.argsort(class_of[ids], kind="stable")]
    rank = np.full(len(class_of), -1, dtype=np.int64)
    rank[ids] = np.arange(len(ids))
    group = np.empty(len(of_run), np.int64)
    sizes = np.zeros(len(ids), np.int64)
    _assign_groups(of_run, id_of_run, start, rank, group, sizes)
    return TruthInstances(start, group, class_of[ids], sizes, label_range)


@njit(cache=True, nogil=True)
def _runs(labels, instances, start):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write where runs of one label and id begin, and behind them the number of vertices; the number of runs."""
    n, runs = labels.shape[0], 0
    v = 0
    while v < n:
        start[runs] = v
        runs += 1
        c, i = labels[v], instances[v]
        v += 1
        while v < n and labels[v] == c and instances[v] == i:
            v += 1
    start[runs] = n
    return runs


@njit(cache=True, nogil=True)
def _one_class_each(labels, instances, class_of):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Fill the class of every instance id from those of the runs; False as soon as an id has two."""
    for r in range(labels.shape[0]):
        c, i = labels[r], instances[r]
        if c >= 0 and i >= 0:
            if class_of[i] < 0:
                class_of[i] = c
            elif class_of[i] != c:
                return False
    return True


@njit(cache=True, nogil=True)
def _assign_groups(labels, instances, start, rank, group, sizes):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    for r in range(labels.shape[0]):
        c, i = labels[r], instances[r]
        g = rank[i] if c >= 0 and i >= 0 else -1
        group[r] = g
        if g >= 0:
            sizes[g] += start[r + 1] - start[r]


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
def _count_stretches(indices, bounds, run_start, run_group, table, left):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Count the groups of the masks indices[bounds[j] : bounds[j + 1]] into `table` [masks, G + 1] (last = void), where
    a mask ascends in pieces of eight and more; the others are marked in `left` [masks].

    Returns (mask, problem): problem 0 none, 1 an index out of range.
    """
    n, void = run_start[-1], table.shape[1] - 1
    for j in range(bounds.shape[0] - 1):
        mask = indices[bounds[j] : bounds[j + 1]]
        m = mask.shape[0]
        if m == 0:
            continue
        back, gaps = _disorder(mask)
        if back > 0 or 8 * gaps >= m:
            left[j] = True
            continue
        if mask[0] < 0 or mask[m - 1] >= n:
            return j, 1
        r = np.searchsorted(run_start, mask[0], side="right") - 1
        k = 0
        while k < m:
            v = mask[k]
            while run_start[r + 1] <= v:
                r += 1
            length = min(run_start[r + 1] - v, m - k)
            if mask[k + length - 1] - v != length - 1:  # ascending, so equal ends mean that nothing is left out
                length = 1
                while mask[k + length] == v + length:
                    length += 1
            g = run_group[r]
            table[j, g if g >= 0 else void] += length
            k += length
    return 0, 0


@njit(cache=True, nogil=True)
def _count_vertices(indices, bounds, left, group, table):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Count the masks that `left` marks vertex by vertex.

    Returns (mask, problem): problem 0 none, 1 an index out of range, 2 one that repeats.
    """
    n, void = group.shape[0], table.shape[1] - 1
    stamp = np.full(n, -1, np.int32)
    for j in range(bounds.shape[0] - 1):
        if not left[j]:
            continue
        mask = indices[bounds[j] : bounds[j + 1]]
        current, run = void, 0
        for k in range(mask.shape[0]):
            v = mask[k]
            if v < 0 or v >= n:
                return j, 1
            if stamp[v] == j:
                return j, 2
            stamp[v] = j
            g = group[v]
            if g != current:  # neighbours mostly share their group: count runs, not vertices
                table[j, current] += run
                current, run = g if g >= 0 else void, 0
            run += 1
        table[j, current] += run
    return 0, 0
