from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evaluation import neighbours
from evaluation.neighbours import nearest_fill, neighbour_vote


def plain_vote(means: np.ndarray, predictions: np.ndarray, points: np.ndarray, n_classes: int, k: int) -> list[int]:
    known = [i for i in range(len(means)) if predictions[i] >= 0]
    result = []
    for point in points:
        near = sorted(known, key=lambda i: float(np.sum((means[i] - point) ** 2)))[:k]
        votes = [sum(predictions[i] == c for i in near) for c in range(n_classes)]
        result.append(votes.index(max(votes)) if near else -1)
    return result


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 9), st.integers(1, 4))
def test_vote_equals_the_plain_count(seed: int, n: int, k: int, n_classes: int) -> None:
    rng = np.random.default_rng(seed)
    means, points = rng.random((n, 3)), rng.random((7, 3))
    predictions = rng.integers(-1, n_classes, n).astype(np.int32)
    result = neighbour_vote(means, predictions, points, n_classes, k=k)
    assert result.tolist() == plain_vote(means, predictions, points, n_classes, k)


def test_ties_go_to_the_lowest_class() -> None:
    means = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]], float)
    predictions = np.array([3, 3, 1, 1], np.int32)
    assert neighbour_vote(means, predictions, np.array([[0.1, 0, 0]]), 5, k=4).tolist() == [1]


def test_passes_do_not_change_the_result(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    means, points = rng.random((50, 3)), rng.random((40, 3))
    predictions = rng.integers(-1, 3, 50).astype(np.int32)
    whole = neighbour_vote(means, predictions, points, 3)
    monkeypatch.setattr(neighbours, "_PASS", 7)
    np.testing.assert_array_equal(whole, neighbour_vote(means, predictions, points, 3))


def test_fill_takes_the_nearest_and_leaves_the_rest() -> None:
    means = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [9, 0, 0]], float)
    predictions = np.array([4, -1, 2, -1], np.int32)
    filled = nearest_fill(means + np.array([[0], [0.1], [0], [0]]), predictions)
    assert filled.tolist() == [4, 2, 2, 2]
    assert predictions.tolist() == [4, -1, 2, -1]
    assert nearest_fill(means, np.full(4, -1, np.int32)).tolist() == [-1] * 4
