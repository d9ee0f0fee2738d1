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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from evaluation.metrics.masks import Masks, count_pairs, ground_truth
from evaluation.metrics.semantic import MetricError, _mean, _plain

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

#: The official thresholds, with the official rounding (np.arange), as `>` is strict.
OVERLAPS: F64 = np.append(np.arange(0.5, 0.95, 0.05), 0.25)


@dataclass(frozen=True)
class SceneMatches:
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

    `scenes` holds what was counted, one entry per scene.

    Args:
        class_names: K names of the classes to evaluate; ScanNet leaves out wall and floor: give their vertices class -1
            (void).
        overlaps: IoU thresholds, official by default.
        min_region_size: vertices; smaller predictions are dropped, smaller ground truths are ignored.
        groups: name -> class names, e.g. head, common, tail of ScanNet200; each gets its own means.

    >>> evaluator = InstanceEvaluator(("chair",), min_region_size=1)
    >>> found = evaluator.add([np.array([0, 1, 2])], [0], [0.9], np.array([0, 0, 0, -1]), np.array([5, 5, 5, -1]))
    >>> found.average_precision().as_dict()["ap50"]
    1.0
    """

    def __init__(
        self,
        class_names: Sequence[str],
        *,
        overlaps: F64 = OVERLAPS,
        min_region_size: int = 100,
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.class_names = tuple(class_names)
        index = {name: i for i, name in enumerate(self.class_names)}
        self.groups = {
            group: np.array([index[name] for name in names if name in index], dtype=np.int64)
            for group, names in (groups or {}).items()
        }
        self.overlaps = np.asarray(overlaps, dtype=np.float64)
        self.min_region_size = int(min_region_size)
        self.scenes: list[SceneMatches] = []

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
            masks: P masks over V vertices in any form of `masks.mask_batches`. They may overlap.
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
        truth = ground_truth(gt_labels, gt_instances)
        low, high = truth.label_range
        if high >= k or low < -1:
            outside = high if high >= k else low
            raise MetricError(f"{who}: ground-truth class {outside} is outside the label space of {k} classes")
        if labels.shape != scores.shape:
            raise MetricError(f"{who}: {len(labels)} predicted classes and {len(scores)} scores")
        if np.isnan(scores).any():
            raise MetricError(f"{who}: the score of prediction {int(np.flatnonzero(np.isnan(scores))[0])} is NaN")
        pairs = count_pairs(masks, labels, truth, who=who)
        keep = (labels >= 0) & (labels < k) & (pairs.sizes >= self.min_region_size)
        used = keep[pairs.mask]
        pred = (np.cumsum(keep) - 1)[pairs.mask[used]]
        instance, shared = pairs.instance[used], pairs.shared[used]
        order = np.lexsort((pred, instance))
        self.scenes.append(
            SceneMatches(
                truth.classes,
                truth.sizes,
                labels[keep],
                pairs.sizes[keep],
                scores[keep],
                pairs.void[keep],
                instance[order],
                pred[order],
                shared[order],
            )
        )
        return self

    def state(self) -> list[dict[str, list[float]]]:
        """What was counted so far, scene by scene, as plain JSON; `merge` takes it back exactly."""
        return [{f.name: getattr(scene, f.name).tolist() for f in fields(scene)} for scene in self.scenes]

    def merge(self, state: Sequence[Mapping[str, Sequence[float]]]) -> InstanceEvaluator:
        """Add the scenes of another evaluator's `state`; it must have had the same classes and minimum size."""
        for scene in state:
            arrays: dict[str, Any] = {
                f.name: np.array(scene[f.name], dtype=np.float64 if f.name == "pred_score" else np.int64)
                for f in fields(SceneMatches)
            }
            self.scenes.append(SceneMatches(**arrays))
        return self

    def average_precision(self) -> InstanceScores:
        """AP of every class at every overlap: `InstanceScores.ap` [K, O]."""
        k = len(self.class_names)
        ap = np.full((k, len(self.overlaps)), np.nan)
        all_ = _concatenate(self.scenes)
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
        # Confidences as numbers that ascend by (class, confidence), equal ones alike: nothing is sorted per overlap.
        order = np.lexsort((all_.pred_score, all_.pred_class))
        classes, scores = all_.pred_class[order], all_.pred_score[order]
        new = np.ones(len(order), dtype=bool)
        new[1:] = (np.diff(classes) != 0) | (np.diff(scores) != 0)
        level = np.empty(len(order), np.int64)
        level[order] = np.cumsum(new) - 1
        bounds = np.searchsorted(classes[new], np.arange(k + 1))
        for oi, threshold in enumerate(self.overlaps):
            right, wrong = _match(
                starts, all_.pair_pred, iou, level, counted, ignored_share, int(new.sum()), float(threshold)
            )
            ap[:, oi] = step_areas(bounds, right, wrong, n_gt, n_pred)
        return InstanceScores(self.class_names, self.overlaps, ap, n_gt, n_pred, self.groups)


@dataclass(frozen=True)
class InstanceScores:
    """AP per class and overlap ([K, O] f64, NaN = class without ground truth), instances counted per class."""

    class_names: tuple[str, ...]
    overlaps: F64
    ap: F64
    n_gt: I64
    n_pred: I64
    groups: Mapping[str, I64] = field(default_factory=dict)

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
            **_means(table),
            "groups": {name: _means(table[rows]) for name, rows in self.groups.items()},
            "per_class": {
                name: {
                    **{key: _plain(float(v)) for key, v in zip(("ap", "ap50", "ap25"), row)},
                    "n_gt": int(g),
                    "n_pred": int(p),
                }
                for name, row, g, p in zip(self.class_names, table, self.n_gt, self.n_pred)
            },
        }


def _means(table: F64) -> dict[str, float | None]:
    """AP, AP50 and AP25 as means over the classes of `table` [K, 3] that have ground truth."""
    return {name: _plain(_mean(table[:, i])) for i, name in enumerate(("ap", "ap50", "ap25"))}


@njit(cache=True, nogil=True)
def step_areas(bounds, right, wrong, n_gt, n_pred):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """ScanNet's average precision of every class at one overlap, [K] f64.

    Args:
        bounds [K + 1]: levels of confidence of each class in the next two, ascending.
        right, wrong [L]: true and false positives of every level.
        n_gt, n_pred [K]: ground truths that ask for a match, and predictions. No ground truth: NaN; no prediction: 0.

    A point of the curve per level that has any (ties enter together), closed by the artificial point (precision 1,
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
        # From the highest confidence down: `hits` of `kept` predictions are true. Recalls of the two points above the
        # current one.
        above, two_above = 0.0, 0.0
        precision_above = 1.0
        hits, kept = 0, 0
        for level in range(bounds[c + 1] - 1, bounds[c] - 1, -1):
            if right[level] + wrong[level] == 0:
                continue
            hits += right[level]
            kept += right[level] + wrong[level]
            recall = hits / n_gt[c]
            area += precision_above * 0.5 * (recall - two_above)
            two_above, above = above, recall
            precision_above = hits / kept
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


def _concatenate(scenes: Sequence[SceneMatches]) -> SceneMatches:
    """All scenes as one, ground truths and predictions numbered through: a pair never crosses scenes."""
    gt_offset = np.cumsum([0] + [len(s.gt_size) for s in scenes])
    pred_offset = np.cumsum([0] + [len(s.pred_size) for s in scenes])

    def cat(parts: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
        return np.concatenate(parts) if parts else np.zeros(0, dtype)

    return SceneMatches(
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
def _match(starts, pair_pred, iou, level, counted, ignored_share, n_levels, threshold):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """True and false positives [L] of every level of confidence at one overlap, by greedy matching.

    starts [G + 1] into the pairs, which are in the order (ground truth, prediction). level [P]: of each prediction; a
    pair's two sides have one class, so levels compare as confidences do. A second match of a ground truth makes a false
    positive of the lower confidence. A prediction that overlaps with no ground truth is one, too, unless more than
    `threshold` of it is ignored.
    """
    right, wrong = np.zeros(n_levels, np.int64), np.zeros(n_levels, np.int64)
    visited, touched = np.zeros(level.shape[0], np.bool_), np.zeros(level.shape[0], np.bool_)
    for g in range(starts.shape[0] - 1):
        best = -1
        for j in range(starts[g], starts[g + 1]):
            p = pair_pred[j]
            if not iou[j] > threshold:
                continue
            touched[p] = True
            if visited[p] or not counted[g]:
                continue
            if best >= 0:
                wrong[min(best, level[p])] += 1
                best = max(best, level[p])
            else:
                best = level[p]
                visited[p] = True
        if best >= 0:
            right[best] += 1
    for p in range(level.shape[0]):
        if not touched[p] and ignored_share[p] <= threshold:
            wrong[level[p]] += 1
    return right, wrong
