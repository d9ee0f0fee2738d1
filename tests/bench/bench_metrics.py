"""Metrics against the official algorithms, written plainly: numpy passes per class, dense vertex masks per (prediction,
ground truth) pair.

The size is ScanNet200's validation set: 150,000 vertices per scene, 200 classes. Both sides see the same scenes and
must agree; a few scenes are enough, as both cost the same for every scene.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from chorus_common.labels import SCANNET20
from evaluation.metrics.instance import OVERLAPS, InstanceEvaluator
from evaluation.metrics.semantic import ConfusionMatrix
from tests.bench.measure import Rounds, interleaved
from tests.bench.row import Row

COMMAND = "python -m tests.bench.bench_metrics"
N_SCENES, N_POINTS, N_CLASSES = 6, 150_000, 200
N_GT, N_PRED = 40, 200


def rows() -> list[Row]:
    """Semantic and instance metrics; CPU seconds per scene, ratio = times faster."""
    return [_semantic(), _instance()]


def _semantic() -> Row:
    rng = np.random.default_rng(0)
    scenes = []
    for _ in range(N_SCENES):
        truth = rng.integers(-1, N_CLASSES, N_POINTS)
        scenes.append((truth, np.where(rng.random(N_POINTS) < 0.5, truth, rng.integers(-1, N_CLASSES, N_POINTS))))

    def ours() -> NDArray[np.float64]:
        matrix = ConfusionMatrix([str(i) for i in range(N_CLASSES)])
        for truth, prediction in scenes:
            matrix.add(truth, prediction)
        return matrix.scores("scannet").iou

    def official() -> NDArray[np.float64]:
        tp, fp, fn = np.zeros((3, N_CLASSES))
        for truth, prediction in scenes:
            known = truth >= 0
            for c in range(N_CLASSES):
                is_truth, is_predicted = truth == c, prediction == c
                tp[c] += np.count_nonzero(is_truth & is_predicted)
                fp[c] += np.count_nonzero(known & ~is_truth & is_predicted)
                fn[c] += np.count_nonzero(is_truth & ~is_predicted)
        return tp / (tp + fp + fn)

    np.testing.assert_allclose(ours(), official(), rtol=0, atol=1e-12)
    return _row(
        "metrics/semantic-vs-official-algorithm", "one numpy pass per class", interleaved(ours, official, repeats=20)
    )


def _instance() -> Row:
    rng = np.random.default_rng(0)
    names = SCANNET20[2:]  # the benchmark's own 18: wall and floor are not instances
    shares = 1 / np.arange(1, len(names) + 1)  # a few classes have most instances, as chairs have
    shares /= shares.sum()
    scenes = []
    for _ in range(N_SCENES):
        bounds = np.sort(rng.choice(N_POINTS, 2 * N_GT, replace=False)).reshape(N_GT, 2)
        labels, instances = np.full(N_POINTS, -1), np.full(N_POINTS, -1)
        classes = rng.choice(len(names), N_GT, p=shares)
        for j, (start, stop) in enumerate(bounds):
            labels[start:stop], instances[start:stop] = classes[j], j
        masks, pred_classes = [], []
        for _ in range(N_PRED):
            i = int(rng.integers(N_GT))
            start, stop = bounds[i]
            size = stop - start
            shift = int(rng.integers(-size // 3 - 1, size // 3 + 1))
            masks.append(np.arange(max(0, start + shift), min(N_POINTS, stop + shift)))
            pred_classes.append(classes[i] if rng.random() < 0.9 else int(rng.choice(len(names), p=shares)))
        scenes.append((labels, instances, masks, np.array(pred_classes), rng.random(N_PRED)))

    # Each side gets the masks in its own form: compressed rows here, dense there; making them is not counted.
    compressed = [sparse.csr_matrix(_dense(masks)) for _, _, masks, _, _ in scenes]

    def ours() -> NDArray[np.float64]:
        evaluator = InstanceEvaluator(names)
        for (labels, instances, _, classes, scores), masks in zip(scenes, compressed):
            evaluator.add(masks, classes, scores, labels, instances)
        return evaluator.average_precision().ap

    dense = [_dense(masks) for _, _, masks, _, _ in scenes]

    def official() -> NDArray[np.float64]:
        scans = [
            official_assign(labels, instances, d, classes, scores)
            for (labels, instances, _, classes, scores), d in zip(scenes, dense)
        ]
        return np.array([[official_class_ap(scans, c, float(o)) for o in OVERLAPS] for c in range(len(names))])

    np.testing.assert_allclose(ours(), official(), rtol=0, atol=1e-9)
    times = interleaved(ours, official, repeats=20)
    return _row("metrics/instance-vs-official-algorithm", "dense mask per (prediction, ground truth)", times)


def official_assign(labels, instances, masks, classes, scores, min_region=100):  # type: ignore[no-untyped-def]
    """Ground truths and predictions of one scan: two dense passes over the vertices per pair of equal class."""
    gts: list[dict[str, Any]] = []
    preds: list[dict[str, Any]] = []
    for i in np.unique(instances[instances >= 0]):
        of_instance = instances == i
        gts.append(
            {
                "id": i,
                "class": labels[np.argmax(of_instance)],
                "size": np.count_nonzero(of_instance),
                "pairs": [],
            }
        )
    void = labels < 0
    for mask, c, score in zip(masks, classes, scores):
        size = np.count_nonzero(mask)
        if size < min_region:
            continue
        pred = {
            "class": c,
            "size": size,
            "score": score,
            "void": np.count_nonzero(void & mask),
            "pairs": [],
            "id": len(preds),
        }
        for gt in (g for g in gts if g["class"] == c):
            if shared := np.count_nonzero(np.logical_and(instances == gt["id"], mask)):
                overlap = shared / (gt["size"] + size - shared)
                gt["pairs"].append((pred, overlap))
                pred["pairs"].append((gt, overlap, shared))
        preds.append(pred)
    return gts, preds


def official_class_ap(scans, c, threshold, min_region=100):  # type: ignore[no-untyped-def]
    """AP of one class at one overlap: greedy matching, ignored regions, ScanNet's convolution."""
    true, score, missed, has_gt, has_pred = [], [], 0, False, False
    for gts, preds in scans:
        visited = set()
        for gt in (g for g in gts if g["class"] == c and g["size"] >= min_region):
            has_gt, best = True, None
            for pred, overlap in gt["pairs"]:
                if pred["id"] in visited or not overlap > threshold:
                    continue
                if best is None:
                    best = pred["score"]
                    visited.add(pred["id"])
                else:
                    true.append(0.0)
                    score.append(min(best, pred["score"]))
                    best = max(best, pred["score"])
            if best is None:
                missed += 1
            else:
                true.append(1.0)
                score.append(best)
        for pred in (p for p in preds if p["class"] == c):
            has_pred = True
            if not any(overlap > threshold for _, overlap, _ in pred["pairs"]):
                ignored = pred["void"] + sum(s for g, _, s in pred["pairs"] if g["size"] < min_region)
                if ignored / pred["size"] <= threshold:
                    true.append(0.0)
                    score.append(pred["score"])
    if not has_gt:
        return np.nan
    if not has_pred or not score:
        return 0.0
    order = np.argsort(score)
    y, s = np.array(true)[order], np.array(score)[order]
    first = np.unique(s, return_index=True)[1]
    below = np.append(np.cumsum(y), 0.0)[first - 1]
    tp = y.sum() - below
    precision = np.append(tp / (len(y) - first), 1.0)
    recall = np.append(tp / (y.sum() + missed), 0.0)
    steps = np.convolve(np.concatenate([recall[:1], recall, [0.0]]), [-0.5, 0, 0.5], "valid")
    return float(precision @ steps)


def _dense(masks: list[NDArray[np.integer]]) -> NDArray[np.bool_]:
    dense = np.zeros((len(masks), N_POINTS), dtype=bool)
    for row, indices in zip(dense, masks):
        row[indices] = True
    return dense


def _row(name: str, baseline: str, times: Rounds) -> Row:
    unit = "CPU s per scene (ratio = times faster)"
    return times.row(name, unit, COMMAND, baseline, times_faster=True, scale=1 / N_SCENES)


if __name__ == "__main__":
    for row in rows():
        print(row)
