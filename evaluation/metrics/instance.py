"""Instance segmentation: average precision by ScanNet's official rules, on sparse pair counts instead of dense masks.

Source of the rules: ScanNet BenchmarkScripts/3d_evaluation/evaluate_semantic_instance.py. In short:

- A prediction is a mask, a class and a confidence. Masks under `min_region_size` vertices, or of a class outside the
  label space, are dropped.
- Ground-truth instances under that size neither ask for a match nor punish one: what they share with a prediction
  counts as ignored, like void.
- Per overlap threshold (strict >), ground truths take predictions of their class greedily in the order in which they
  were given. A second match of the same ground truth makes a false positive of the lower confidence and leaves the
  prediction free for others.
- A prediction without a match is a false positive unless more than the threshold of its vertices are ignored.
- AP is the area under the step curve of precision over recall, by ScanNet's convolution with (-0.5, 0, 0.5).

AP = mean over overlaps 0.50, 0.55, ..., 0.90; AP50 and AP25 are single overlaps. A class without ground truth is NaN
and left out of means.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from evaluation.metrics.semantic import MetricError, _mean, _plain

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]
Masks = Any  # see `mask_rows`

#: The official thresholds, with the official rounding (np.arange), as `>` is strict.
OVERLAPS: F64 = np.append(np.arange(0.5, 0.95, 0.05), 0.25)

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


def mask_rows(masks: Masks, n_vertices: int, *, who: str = "scene") -> Iterator[NDArray[np.integer]]:
    """Vertex indices of each mask, one at a time.

    Args:
        masks: `PackedMasks`; a scipy sparse matrix [P, V]; a dense array [P, V] (non-zero = in the mask); or a sequence
            of P index arrays.
        n_vertices: V.
    """
    if isinstance(masks, PackedMasks):
        if masks.n_vertices != n_vertices or masks.bits.shape[1] != (n_vertices + 7) // 8:
            raise MetricError(f"{who}: masks cover {masks.n_vertices} vertices, the ground truth {n_vertices}")
        for row in masks.bits:
            yield np.flatnonzero(np.unpackbits(row, count=n_vertices))
    elif sparse.issparse(masks):
        if masks.shape[1] != n_vertices:
            raise MetricError(f"{who}: masks cover {masks.shape[1]} vertices, the ground truth {n_vertices}")
        csr = masks.tocsr()
        if not csr.has_canonical_format:  # duplicates are one vertex, not two
            csr = csr.copy()
            csr.sum_duplicates()
        for start, stop in zip(csr.indptr[:-1], csr.indptr[1:]):
            yield csr.indices[start:stop][csr.data[start:stop] != 0]
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


@dataclass(frozen=True)
class _SceneMatches:
    """All that AP needs of one scene: small arrays, whatever the number of vertices.

    Ground truths sorted by (class, instance id), predictions in the given order, pairs of the same class sorted by (gt,
    prediction).
    """

    gt_class: I64
    gt_size: I64
    pred_class: I64
    pred_size: I64
    pred_score: F64
    pred_void: I64
    pair_gt: I64
    pair_pred: I64
    pair_shared: I64


class InstanceEvaluator:
    """Collects scenes, then computes AP, AP50 and AP25.

    Args:
        class_names: K names of the classes to evaluate; ScanNet leaves out wall and floor: give their vertices class -1
            (void).
        overlaps: IoU thresholds, official by default.
        min_region_size: vertices; smaller predictions are dropped, smaller ground truths are ignored.
    """

    def __init__(self, class_names: Sequence[str], *, overlaps: F64 = OVERLAPS, min_region_size: int = 100) -> None:
        self.class_names = tuple(class_names)
        self.overlaps = np.asarray(overlaps, dtype=np.float64)
        self.min_region_size = int(min_region_size)
        self._scenes: list[_SceneMatches] = []

    def add(
        self,
        masks: Masks,
        pred_labels: NDArray[np.integer] | Sequence[int],
        pred_scores: NDArray[np.floating] | Sequence[float],
        gt_labels: NDArray[np.integer],
        gt_instances: NDArray[np.integer],
        *,
        who: str = "scene",
    ) -> InstanceEvaluator:
        """Count one scene.

        Args:
            masks: P masks over V vertices in any form of `mask_rows`. They may overlap.
            pred_labels: [P] class index; outside [0, K) = not evaluated, dropped as in the official script.
            pred_scores: [P] confidence.
            gt_labels: [V] class index, -1 = void.
            gt_instances: [V] instance id, negative = void. Vertices of one id with different classes are different
                instances, as in the official ids (class * 1000 + instance).

        Raises MetricError naming `who` on lengths that differ, indices out of range or repeated within a mask, and
        scores that are NaN.
        """
        gt_labels, gt_instances = np.asarray(gt_labels), np.asarray(gt_instances)
        labels = np.asarray(pred_labels, dtype=np.int64).reshape(-1)
        scores = np.asarray(pred_scores, dtype=np.float64).reshape(-1)
        k, n = len(self.class_names), len(gt_labels)
        if gt_labels.shape != (n,) or gt_instances.shape != (n,):
            raise MetricError(f"{who}: ground truth has {gt_labels.shape} labels and {gt_instances.shape} instances")
        if n and (gt_labels.max() >= k or gt_labels.min() < -1):
            raise MetricError(
                f"{who}: ground-truth class {int(gt_labels.max())} is outside the label space of {k} classes"
            )
        if labels.shape != scores.shape:
            raise MetricError(f"{who}: {len(labels)} predicted classes and {len(scores)} scores")
        if np.isnan(scores).any():
            raise MetricError(f"{who}: the score of prediction {int(np.flatnonzero(np.isnan(scores))[0])} is NaN")
        group, gt_class, gt_size = _ground_truth_groups(gt_labels, gt_instances)
        sizes, void, pair_pred, pair_gt, shared = _count_pairs(masks, labels, group, gt_class, who)
        keep = (labels >= 0) & (labels < k) & (sizes >= self.min_region_size)
        row = np.cumsum(keep) - 1
        use = keep[pair_pred]
        pair_pred, pair_gt, shared = row[pair_pred[use]], pair_gt[use], shared[use]
        order = np.lexsort((pair_pred, pair_gt))
        self._scenes.append(
            _SceneMatches(
                gt_class,
                gt_size,
                labels[keep],
                sizes[keep],
                scores[keep],
                void[keep],
                pair_gt[order],
                pair_pred[order],
                shared[order],
            )
        )
        return self

    def average_precision(self) -> InstanceScores:
        """AP of every class at every overlap: `InstanceScores.ap` [K, O]."""
        k, o = len(self.class_names), len(self.overlaps)
        ap = np.full((k, o), np.nan)
        all_ = _concatenate(self._scenes)
        counted = all_.gt_size >= self.min_region_size
        n_gt = np.bincount(all_.gt_class[counted], minlength=k)
        n_pred = np.bincount(all_.pred_class, minlength=k)
        iou = all_.pair_shared / (all_.gt_size[all_.pair_gt] + all_.pred_size[all_.pair_pred] - all_.pair_shared)
        small = ~counted[all_.pair_gt]
        ignored = all_.pred_void + np.bincount(
            all_.pair_pred[small], weights=all_.pair_shared[small], minlength=len(all_.pred_size)
        )
        ignored_share = ignored / np.maximum(all_.pred_size, 1)
        starts = np.searchsorted(all_.pair_gt, np.arange(len(all_.gt_size) + 1))
        for oi, threshold in enumerate(self.overlaps):
            gt_score, gt_matched, extra_pred, extra_score = _match(
                starts, all_.pair_pred, iou, all_.pred_score, counted, float(threshold)
            )
            touched = np.zeros(len(all_.pred_size), dtype=bool)
            touched[all_.pair_pred[iou > threshold]] = True
            wrong = ~touched & (ignored_share <= threshold)
            hits, n_hits = np.flatnonzero(gt_matched), int(gt_matched.sum())
            classes = np.concatenate([all_.gt_class[hits], all_.pred_class[extra_pred], all_.pred_class[wrong]])
            scores = np.concatenate([gt_score[hits], extra_score, all_.pred_score[wrong]])
            order = np.lexsort((scores, classes))
            bounds = np.searchsorted(classes[order], np.arange(k + 1))
            ap[:, oi] = step_areas(bounds, scores[order], order < n_hits, n_gt, n_pred)
        return InstanceScores(self.class_names, self.overlaps, ap, n_gt, n_pred)


@dataclass(frozen=True)
class InstanceScores:
    """AP per class and overlap ([K, O] f64, NaN = class without ground truth), instances counted per class."""

    class_names: tuple[str, ...]
    overlaps: F64
    ap: F64
    n_gt: I64
    n_pred: I64

    @property
    def per_class(self) -> F64:
        """[K, 3]: AP, AP50, AP25."""
        main = ~np.isclose(self.overlaps, 0.25)
        columns = [
            self.ap[:, main],
            self.ap[:, np.isclose(self.overlaps, 0.5)],
            self.ap[:, np.isclose(self.overlaps, 0.25)],
        ]
        return np.stack([c.mean(axis=1) if c.shape[1] else np.full(len(self.ap), np.nan) for c in columns], axis=1)

    def as_dict(self) -> dict[str, object]:
        table = self.per_class
        return {
            "definition": "scannet official AP",
            **{name: _plain(_mean(table[:, i])) for i, name in enumerate(("ap", "ap50", "ap25"))},
            "per_class": {
                name: {
                    **{key: _plain(float(v)) for key, v in zip(("ap", "ap50", "ap25"), row)},
                    "n_gt": int(g),
                    "n_pred": int(p),
                }
                for name, row, g, p in zip(self.class_names, table, self.n_gt, self.n_pred)
            },
        }


@njit(cache=True, nogil=True)
def step_areas(bounds, scores, is_true, n_gt, n_pred):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """ScanNet's average precision of every class at one overlap, [K] f64.

    Args:
        bounds [K + 1]: rows of each class in the next two; scores ascend within a class.
        scores, is_true: confidence of every true and false positive, and which it is.
        n_gt, n_pred [K]: ground truths that ask for a match, and predictions. No ground truth: NaN; no prediction: 0.

    A point of the curve per distinct confidence (ties enter together), closed by the artificial point (precision 1,
    recall 0); the step width of a point is half the distance between its two neighbours' recalls (np.convolve(recall,
    [-0.5, 0, 0.5]) with the first recall doubled and a 0 behind the last).
    """
    k = n_gt.shape[0]
    result = np.empty(k)
    for c in range(k):
        if n_gt[c] == 0:
            result[c] = np.nan
            continue
        area = 0.0
        # From the highest confidence down: `right` of `kept` predictions are true. Recalls of the two points above the
        # current one.
        above, two_above = 0.0, 0.0
        precision_above = 1.0
        right = 0
        i = bounds[c + 1]
        while i > bounds[c]:
            level = scores[i - 1]
            while i > bounds[c] and scores[i - 1] == level:
                i -= 1
                right += is_true[i]
            recall = right / n_gt[c]
            area += precision_above * 0.5 * (recall - two_above)
            two_above, above = above, recall
            precision_above = right / (bounds[c + 1] - i)
        area += precision_above * 0.5 * (above - two_above)
        result[c] = area if n_pred[c] > 0 else 0.0
    return result


def from_official_ids(gt_ids: NDArray[np.integer], class_ids: Sequence[int]) -> tuple[I64, I64]:
    """(labels, instances) [V] of ScanNet's ids (class id * 1000 + instance); classes outside `class_ids` become
    void.
    """
    ids = np.asarray(gt_ids, dtype=np.int64)
    table = np.full(max(int(ids.max(initial=0)) // 1000, *class_ids) + 1, -1, dtype=np.int64)
    table[np.asarray(class_ids)] = np.arange(len(class_ids))
    if len(ids) and ids.min() < 0:
        raise MetricError(f"ScanNet ids must not be negative, found {int(ids.min())}")
    return table[ids // 1000], ids


def _ground_truth_groups(labels: NDArray[np.integer], instances: NDArray[np.integer]) -> tuple[I32, I64, I64]:
    """Group of every vertex [V] (-1 void), class and size of every group; groups sorted by (class, instance id)."""
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
    group, sizes = np.empty(len(labels), np.int32), np.zeros(len(ids), np.int64)
    _assign_groups(labels, instances, rank, group, sizes)
    return group, class_of[ids], sizes


@njit(cache=True, nogil=True)
def _one_class_each(labels, instances, class_of):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Fill the class of every instance id; False as soon as an id has two."""
    for v in range(labels.shape[0]):
        c, i = labels[v], instances[v]
        if c >= 0 and i >= 0:
            if class_of[i] < 0:
                class_of[i] = c
            elif class_of[i] != c:
                return False
    return True


@njit(cache=True, nogil=True)
def _assign_groups(labels, instances, rank, group, sizes):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    for v in range(labels.shape[0]):
        g = rank[instances[v]] if labels[v] >= 0 and instances[v] >= 0 else -1
        group[v] = g
        if g >= 0:
            sizes[g] += 1


@njit(cache=True, nogil=True)
def _tally(indices, bounds, group, stamp, first, table):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Count the groups of the masks indices[bounds[j] : bounds[j + 1]] into `table` [masks, G + 1] (last = void).

    Returns (mask, problem): problem 0 none, 1 an index out of range, 2 one that repeats. `first` is the number of the
    first mask here, so that one `stamp` [V], filled with -1, serves all passes.
    """
    n, void = group.shape[0], table.shape[1] - 1
    for j in range(bounds.shape[0] - 1):
        ascending, last, current, run = True, -1, void, 0
        for i in range(bounds[j], bounds[j + 1]):
            v = indices[i]
            if v < 0 or v >= n:
                return j, 1
            ascending &= v > last
            last = v
            g = group[v]
            if g != current:  # neighbours mostly share their group: count runs, not vertices
                table[j, current] += run
                current, run = g if g >= 0 else void, 0
            run += 1
        table[j, current] += run
        if not ascending:  # only then can anything repeat
            for i in range(bounds[j], bounds[j + 1]):
                if stamp[indices[i]] == first + j:
                    return j, 2
                stamp[indices[i]] = first + j
    return 0, 0


def _count_pairs(masks: Masks, labels: I64, group: I32, gt_class: I64, who: str) -> tuple[I64, I64, I64, I64, I64]:
    """Sizes [P], void counts [P], and the (prediction, ground truth, shared vertices) pairs of equal class with a
    shared vertex.
    """
    p, g, n = len(labels), len(gt_class), len(group)
    sizes, void = np.zeros(p, np.int64), np.zeros(p, np.int64)
    rows_per_pass = max(1, _TABLE_CELLS // (g + 1))
    pairs: list[tuple[I64, I64, I64]] = []
    waiting: list[NDArray[np.integer]] = []
    stamp = np.full(n, -1, dtype=np.int32)

    def flush(first: int) -> None:
        table = np.zeros((len(waiting), g + 1), dtype=np.int64)
        bounds = np.cumsum([0] + [len(indices) for indices in waiting])
        indices = np.concatenate(waiting).astype(np.int64, copy=False)
        row, problem = _tally(indices, bounds, group, stamp, first, table)
        if problem:
            what = "holds an index outside the ground truth's vertices" if problem == 1 else "lists a vertex twice"
            raise MetricError(f"{who}: mask {first + row} {what} ({n} vertices)")
        rows = slice(first, first + len(waiting))
        sizes[rows], void[rows] = np.diff(bounds), table[:, g]
        a, b = np.nonzero(table[:, :g])
        same = gt_class[b] == labels[rows][a]
        pairs.append((a[same] + first, b[same], table[a[same], b[same]]))
        waiting.clear()

    done = seen = held = 0
    for seen, indices in enumerate(mask_rows(masks, n, who=who), start=1):
        if seen > p:
            raise MetricError(f"{who}: more masks than predicted classes ({p})")
        waiting.append(indices)
        held += len(indices)
        if len(waiting) == rows_per_pass or held > _PASS_INDICES:
            flush(done)
            done, held = seen, 0
    if seen != p:
        raise MetricError(f"{who}: {seen} masks for {p} predicted classes")
    if waiting:
        flush(done)
    if not pairs:
        empty = np.zeros(0, np.int64)
        return sizes, void, empty, empty, empty
    pair_pred, pair_gt, shared = (np.concatenate(column) for column in zip(*pairs))
    return sizes, void, pair_pred, pair_gt, shared


def _concatenate(scenes: Sequence[_SceneMatches]) -> _SceneMatches:
    """All scenes as one, ground truths and predictions numbered through: a pair never crosses scenes."""
    gt_offset = np.cumsum([0] + [len(s.gt_size) for s in scenes])
    pred_offset = np.cumsum([0] + [len(s.pred_size) for s in scenes])

    def cat(parts: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
        return np.concatenate(parts) if parts else np.zeros(0, dtype)

    return _SceneMatches(
        cat([s.gt_class for s in scenes], np.int64),
        cat([s.gt_size for s in scenes], np.int64),
        cat([s.pred_class for s in scenes], np.int64),
        cat([s.pred_size for s in scenes], np.int64),
        cat([s.pred_score for s in scenes], np.float64),
        cat([s.pred_void for s in scenes], np.int64),
        cat([s.pair_gt + o for s, o in zip(scenes, gt_offset)], np.int64),
        cat([s.pair_pred + o for s, o in zip(scenes, pred_offset)], np.int64),
        cat([s.pair_shared for s in scenes], np.int64),
    )


@njit(cache=True, nogil=True)
def _match(starts, pair_pred, iou, score, counted, threshold):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Greedy matching at one overlap.

    starts [G + 1] into the pairs, which are in the order (ground truth, prediction). Returns the best score and a flag
    per ground truth, and the false positives that second matches leave (prediction index for its class, score).
    """
    n_gt = starts.shape[0] - 1
    visited = np.zeros(score.shape[0], np.bool_)
    gt_score = np.zeros(n_gt)
    matched = np.zeros(n_gt, np.bool_)
    extra_pred = np.empty(pair_pred.shape[0], np.int64)
    extra_score = np.empty(pair_pred.shape[0])
    extra = 0
    for g in range(n_gt):
        if not counted[g]:
            continue
        for j in range(starts[g], starts[g + 1]):
            p = pair_pred[j]
            if visited[p] or not iou[j] > threshold:
                continue
            if matched[g]:
                extra_pred[extra] = p
                extra_score[extra] = min(gt_score[g], score[p])
                gt_score[g] = max(gt_score[g], score[p])
                extra += 1
            else:
                matched[g] = True
                gt_score[g] = score[p]
                visited[p] = True
    return gt_score, matched, extra_pred[:extra], extra_score[:extra]
