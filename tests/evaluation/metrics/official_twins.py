"""The official metrics, written the slow and obvious way: dense masks and one pass over the points per class.

Rules from ScanNet BenchmarkScripts (evaluate_semantic_label.py, evaluate_semantic_instance.py), read and written anew.
"""

from __future__ import annotations

import math

import numpy as np


def confusion(truth, prediction, k):
    table = [[0] * (k + 1) for _ in range(k)]
    for t, p in zip(truth, prediction):
        if t >= 0:
            table[t][p if p >= 0 else k] += 1
    return np.array(table)


def class_iou(truth, prediction, c):
    """IoU of one class over the points with ground truth; NaN where neither side has it."""
    known = truth >= 0
    tp = np.count_nonzero(known & (truth == c) & (prediction == c))
    fn = np.count_nonzero(known & (truth == c) & (prediction != c))
    fp = np.count_nonzero(known & (truth != c) & (prediction == c))
    return tp / (tp + fp + fn) if tp + fp + fn else math.nan


def instance_ap(scenes, class_ids, overlaps, min_region=100):
    """AP [len(class_ids), len(overlaps)].

    scenes: list of (gt_ids [V] = class * 1000 + instance, list of (mask [V] bool, class id, confidence)).
    """
    matches = [_assign(gt_ids, preds, class_ids, min_region) for gt_ids, preds in scenes]
    ap = np.full((len(class_ids), len(overlaps)), math.nan)
    for ci, c in enumerate(class_ids):
        for oi, threshold in enumerate(overlaps):
            ap[ci, oi] = _class_ap([m[c] for m in matches], threshold, min_region)
    return ap


def _assign(gt_ids, preds, class_ids, min_region):
    void = ~np.isin(gt_ids // 1000, class_ids)
    result = {c: ([], []) for c in class_ids}
    for instance in np.unique(gt_ids):
        c = int(instance // 1000)
        if instance != 0 and c in result:
            result[c][0].append({"id": instance, "size": int((gt_ids == instance).sum()), "preds": []})
    for mask, c, confidence in preds:
        size = int(np.count_nonzero(mask))
        if c not in result or size < min_region:
            continue
        gts, ps = result[c]
        pred = {"key": len(ps), "size": size, "conf": confidence, "void": int((void & mask).sum()), "gts": []}
        for gt in gts:
            shared = int(((gt_ids == gt["id"]) & mask).sum())
            if shared > 0:
                pred["gts"].append((gt, shared))
                gt["preds"].append((pred, shared))
        ps.append(pred)
    return result


def _class_ap(scans, threshold, min_region):
    y_true, y_score, missed = [], [], 0
    has_gt = has_pred = False
    for gts, preds in scans:
        visited = set()
        large = [gt for gt in gts if gt["size"] >= min_region]
        has_gt |= bool(large)
        has_pred |= bool(preds)
        for gt in large:
            best = None
            for pred, shared in gt["preds"]:
                if pred["key"] in visited or not shared / (gt["size"] + pred["size"] - shared) > threshold:
                    continue
                if best is None:
                    best = pred["conf"]
                    visited.add(pred["key"])
                else:
                    y_true.append(0)
                    y_score.append(min(best, pred["conf"]))
                    best = max(best, pred["conf"])
            if best is None:
                missed += 1
            else:
                y_true.append(1)
                y_score.append(best)
        for pred in preds:
            if any(s / (gt["size"] + pred["size"] - s) > threshold for gt, s in pred["gts"]):
                continue
            ignored = pred["void"] + sum(s for gt, s in pred["gts"] if gt["size"] < min_region)
            if ignored / pred["size"] <= threshold:
                y_true.append(0)
                y_score.append(pred["conf"])
    if not has_gt:
        return math.nan
    if not has_pred:
        return 0.0
    curve = []  # (precision, recall) per distinct confidence, ascending
    for level in sorted(set(y_score)):
        tp = sum(t for t, s in zip(y_true, y_score) if s >= level)
        kept = sum(1 for s in y_score if s >= level)
        fn = sum(t for t, s in zip(y_true, y_score) if s < level) + missed
        curve.append((tp / kept, tp / (tp + fn)))
    curve.append((1.0, 0.0))
    recall = [curve[0][1]] + [r for _, r in curve] + [0.0]
    return sum(p * 0.5 * (recall[i] - recall[i + 2]) for i, (p, _) in enumerate(curve))
