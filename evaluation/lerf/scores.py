"""What a relevancy map is worth against an annotated query: the published rules, and curves without a threshold.

The published rules (GAGS evaluate_iou_loc.py:110-226, shared with LangSplat) stretch every map to its own range, so
that the most relevant pixels are positive even where the query is absent, then cut at a fixed 0.4, which users find to
depend on the scene. Therefore the raw map's average precision and its IoU over all thresholds stand beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chorus_common.runtime.config import Config

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

#: Thresholds of the IoU curve, on relevancy itself.
THRESHOLDS = np.linspace(0.0, 1.0, 101)


class LerfRules(Config):
    """The published numbers: side of the averaging box and of the majority window in pixels, and the threshold."""

    box: int = 30
    majority: int = 7
    threshold: float = 0.4


@dataclass(frozen=True, eq=False)
class QueryScores:
    """One query in one frame.

    iou: by the published rule. located: whether the peak lies in a box. average_precision: of raw relevancy over
    pixels. curve [T]: IoU of raw relevancy > each of `THRESHOLDS`.
    """

    iou: float
    located: bool
    average_precision: float
    curve: F64


def score_query(relevancy: F32, mask: Bool, boxes: F64, rules: LerfRules) -> QueryScores:
    """Scores of a map [H, W] in [0, 1] (NaN: nothing rendered there, counts as 0) against mask [H, W] and boxes."""
    values = np.nan_to_num(relevancy, nan=0.0).astype(np.float32)
    blurred = box_mean(values, rules.box)
    predicted = majority(stretched(0.5 * (values + blurred)) > rules.threshold, rules.majority)
    return QueryScores(
        iou(predicted, mask), in_boxes(blurred, boxes), average_precision(values, mask), iou_curve(values, mask)
    )


def box_mean(values: F32, size: int) -> F32:
    """Mean over a size x size box with mirrored borders. An even box reaches one pixel further up and left, as
    cv2.filter2D's anchor makes it.
    """
    return ndimage.uniform_filter(values.astype(np.float64), size, mode="mirror").astype(np.float32)


def stretched(values: F32) -> F32:
    """Min-max to [0, 1], then 2x - 1, cut at 0: the upper half of the range becomes [0, 1]."""
    low, high = values.min(), values.max()
    return np.clip((values - low) / (high - low + np.float32(1e-9)) * 2 - 1, 0, 1)


def majority(mask: Bool, size: int) -> Bool:
    """Majority over a size x size window cut at the borders, ties to False; the last row and column count for nobody.

    That is the published loop (its slices end at h - 1 and w - 1) as four look-ups in a summed-area table.
    """
    height, width = mask.shape
    reach = size // 2
    table = np.zeros((height + 1, width + 1), np.int64)
    table[1:, 1:] = mask.cumsum(axis=0).cumsum(axis=1)
    y, x = np.arange(height), np.arange(width)
    top, bottom = np.maximum(y - reach, 0), np.minimum(y + reach + 1, height - 1)
    left, right = np.maximum(x - reach, 0), np.minimum(x + reach + 1, width - 1)
    bottom, right = np.maximum(bottom, top), np.maximum(right, left)
    ones = (table[bottom][:, right] - table[top][:, right]) - (table[bottom][:, left] - table[top][:, left])
    area = (bottom - top)[:, None] * (right - left)[None]
    return 2 * ones > area


def iou(predicted: Bool, truth: Bool) -> float:
    """Intersection over union; 0 where both are empty."""
    union = np.logical_or(predicted, truth).sum()
    return float(np.logical_and(predicted, truth).sum() / union) if union else 0.0


def in_boxes(values: F32, boxes: F64) -> bool:
    """Whether any pixel of the maximum lies in any box x0 y0 x1 y1, borders included."""
    y, x = np.nonzero(values == values.max())
    x0, y0, x1, y1 = boxes.T
    inside = (x[:, None] >= x0) & (x[:, None] <= x1) & (y[:, None] >= y0) & (y[:, None] <= y1)
    return bool(inside.any())


def average_precision(values: F32, mask: Bool) -> float:
    """Area under precision over recall, pixels by falling relevancy; pixels of equal relevancy count as one step."""
    order = np.argsort(-values, axis=None, kind="stable")
    ranked, hit = values.ravel()[order], mask.ravel()[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # the end of each run of ties
    found = hit.cumsum()[last]
    gained = np.diff(found, prepend=0)
    return float((found / (last + 1) * gained).sum() / max(int(mask.sum()), 1))


def iou_curve(values: F32, mask: Bool, thresholds: F64 = THRESHOLDS) -> F64:
    """IoU [T] of values > t for every threshold."""
    ranked, ranked_true = np.sort(values, axis=None), np.sort(values[mask])
    positive = len(ranked) - np.searchsorted(ranked, thresholds, side="right")
    hit = len(ranked_true) - np.searchsorted(ranked_true, thresholds, side="right")
    union = positive + len(ranked_true) - hit
    return hit / np.maximum(union, 1)
