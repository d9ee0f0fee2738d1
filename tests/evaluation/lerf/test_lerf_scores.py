"""The published rules against loops, and the curves against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.lerf.scores import (
    THRESHOLDS,
    LerfRules,
    average_precision,
    box_mean,
    in_boxes,
    iou,
    iou_curve,
    majority,
    score_query,
    stretched,
)


def slow_majority(mask: np.ndarray, size: int) -> np.ndarray:
    h, w = mask.shape
    out, reach = mask.copy(), size // 2
    for i in range(h):
        for j in range(w):
            square = mask[max(0, i - reach) : min(i + reach + 1, h - 1), max(0, j - reach) : min(j + reach + 1, w - 1)]
            out[i, j] = square.sum() * 2 > square.size
    return out


def slow_box(values: np.ndarray, size: int) -> np.ndarray:
    """A size x size window from -size // 2 on, borders mirrored without repeating the edge."""
    h, w = values.shape

    def mirror(k: int, n: int) -> int:
        k = abs(k) % max(2 * n - 2, 1)
        return k if k < n else 2 * n - 2 - k

    reach = range(-(size // 2), size - size // 2)
    return np.array(
        [
            [np.mean([values[mirror(i + a, h), mirror(j + b, w)] for a in reach for b in reach]) for j in range(w)]
            for i in range(h)
        ]
    )


@given(st.integers(2, 12), st.integers(2, 12), st.sampled_from([1, 3, 7]), st.integers(0, 999))
def test_majority_equals_the_loop(height: int, width: int, size: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    assert np.array_equal(majority(mask, size), slow_majority(mask, size))


@pytest.mark.parametrize("size", [1, 4, 5])
def test_box_mean_equals_the_loop(size: int) -> None:
    values = np.random.default_rng(size).random((7, 9)).astype(np.float32)
    np.testing.assert_allclose(box_mean(values, size), slow_box(values, size), atol=1e-6)


def test_stretching_makes_the_upper_half_positive_whatever_the_range() -> None:
    values = np.array([[0.40, 0.41, 0.43, 0.44]], np.float32)
    np.testing.assert_allclose(stretched(values), [[0, 0, 0.5, 1.0]], atol=1e-4)


def test_a_query_that_is_hit_and_one_that_is_missed() -> None:
    mask = np.zeros((60, 80), bool)
    mask[10:40, 20:60] = True
    boxes = np.array([[20.0, 10, 59, 39]])
    rules = LerfRules(box=5)
    hit = score_query(np.where(mask, 0.9, 0.3).astype(np.float32), mask, boxes, rules)
    assert hit.iou > 0.9
    assert hit.located
    assert hit.average_precision == 1.0
    assert hit.curve.max() == 1.0
    missed = score_query(np.where(mask, 0.3, 0.9).astype(np.float32), mask, boxes, rules)
    assert missed.iou < 0.1
    assert not missed.located
    assert missed.average_precision < 0.5
    blind = score_query(np.full(mask.shape, np.nan, np.float32), mask, boxes, rules)
    assert blind.iou == 0.0
    assert blind.average_precision == pytest.approx(mask.mean())


@given(st.integers(1, 60), st.integers(0, 999))
def test_average_precision_equals_its_definition(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 5, n).astype(np.float32)  # with ties
    mask = rng.random(n) < 0.4
    mask[rng.integers(n)] = True
    area, before = 0.0, 0.0
    for t in sorted(set(values.tolist()), reverse=True):
        taken = values >= t
        recall = mask[taken].sum() / mask.sum()
        area += (recall - before) * mask[taken].mean()
        before = recall
    assert average_precision(values, mask) == pytest.approx(area)


def test_iou_curve_equals_cutting_at_each_threshold() -> None:
    rng = np.random.default_rng(0)
    values, mask = rng.random((9, 7)).astype(np.float32), rng.random((9, 7)) < 0.5
    want = [iou(values > t, mask) for t in THRESHOLDS]
    np.testing.assert_allclose(iou_curve(values, mask), want, atol=1e-9)


def test_location_counts_any_tied_maximum_and_borders() -> None:
    values = np.zeros((4, 5), np.float32)
    values[0, 0] = values[3, 4] = 1
    assert in_boxes(values, np.array([[4.0, 3, 9, 9]]))
    assert not in_boxes(values, np.array([[1.0, 1, 3.9, 3]]))
