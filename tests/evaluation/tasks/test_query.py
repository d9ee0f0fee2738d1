"""Which objects answer a query, and the range of colours that shows it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.heat_picture import LEAST_RANGE, heat_range
from evaluation.proposals.proposals import rows_to_masks
from evaluation.tasks.query import ALIKE, SHARED, distinct


def test_the_whole_is_listed_and_its_parts_are_not() -> None:
    whole, part, other, weak = np.arange(0, 50), np.arange(0, 10), np.arange(60, 70), np.arange(80, 90)
    masks = rows_to_masks([part, other, whole, weak], 100)
    scores = np.array([0.999, 0.95, 0.99, 0.2])
    assert distinct(masks, scores, 5, -np.inf).tolist() == [2, 1, 3]
    assert distinct(masks, scores, 5, 0.5).tolist() == [2, 1]
    assert distinct(masks, scores, 1, -np.inf).tolist() == [2]
    assert distinct(masks, np.array([0.99, 0.95, 0.7, 0.2]), 5, 0.5).tolist() == [0, 1], "a much better part stays"
    assert distinct(rows_to_masks([], 100), np.zeros(0), 5, 0.5).tolist() == []


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 12), top=st.integers(1, 6))
def test_listed_objects_are_apart_and_nothing_that_is_apart_is_missing(seed: int, n: int, top: int) -> None:
    """Against sets of Gaussians, one pair at a time."""
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(rng.random(30) < rng.uniform(0.05, 0.6)) for _ in range(n)]
    rows = [row if len(row) else np.array([0]) for row in rows]
    scores = rng.random(n)
    listed = distinct(rows_to_masks(rows, 30), scores, top, 0.3).tolist()

    def same_thing(a: int, b: int) -> bool:
        return len(set(rows[a]) & set(rows[b])) > SHARED * min(len(rows[a]), len(rows[b]))

    expected: list[int] = []
    left = [i for i in range(n) if scores[i] > 0.3]
    while left and len(expected) < top:
        alike = [i for i in left if scores[i] >= max(scores[j] for j in left) - ALIKE]
        best = min(alike, key=lambda i: (-len(rows[i]), i))
        expected.append(best)
        left = [i for i in left if i != best and not same_thing(i, best)]
    assert listed == expected


def test_a_scene_that_answers_as_a_whole_is_hot() -> None:
    rng = np.random.default_rng(0)
    low, high = heat_range((1 - 1e-4 * rng.random(1000)).astype(np.float32))
    assert low == 0.5
    assert high == pytest.approx(1, abs=1e-3)
    low, high = heat_range(np.full(10, 0.3, np.float32))
    assert (low, high) == (pytest.approx(0.3), pytest.approx(0.3 + LEAST_RANGE))
