from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.heads.components import connected_components


def slow_components(points: np.ndarray, classes: np.ndarray, radius: float) -> np.ndarray:
    """Breadth-first search over all pairs; components numbered as promised."""
    n = len(points)
    found = np.full(n, -1)
    order = sorted((i for i in range(n) if classes[i] >= 0), key=lambda i: (classes[i], *points[i]))
    number = 0
    for start in order:
        if found[start] >= 0:
            continue
        queue = [start]
        found[start] = number
        while queue:
            i = queue.pop()
            near = ((points - points[i]) ** 2).sum(1) <= radius * radius
            for j in np.flatnonzero(near & (classes == classes[i]) & (found < 0)):
                found[j] = number
                queue.append(int(j))
        number += 1
    return found


@given(st.integers(0, 10_000), st.integers(0, 60), st.floats(0.02, 0.9))
@settings(max_examples=80, deadline=None)
def test_equals_breadth_first_search(seed: int, n: int, radius: float) -> None:
    rng = np.random.default_rng(seed)
    points = rng.random((n, 3)) * rng.choice([0.2, 1.0, 3.0], 3)
    classes = rng.integers(-1, 3, n)
    np.testing.assert_array_equal(
        connected_components(points, classes, radius), slow_components(points, classes, radius)
    )


def test_points_on_one_spot_and_far_away() -> None:
    points = np.concatenate([np.zeros((500, 3)), np.full((500, 3), 1e3), [[0.05, 0, 0]]])
    found = connected_components(points, np.zeros(1001, dtype=int), 0.06)
    assert found.max() == 1
    assert (found[:500] == found[0]).all()
    assert found[1000] == found[0]
    assert (found[500:1000] == found[500]).all()


def test_a_chain_at_the_radius_holds_together() -> None:
    points = np.zeros((40, 3))
    points[:, 1] = np.arange(40) * 0.25  # exactly representable: distances are exactly the radius
    assert connected_components(points, np.zeros(40, dtype=int), 0.25).max() == 0
    assert connected_components(points, np.zeros(40, dtype=int), 0.2499).max() == 39


def test_order_of_rows_changes_no_number() -> None:
    rng = np.random.default_rng(0)
    points, classes = rng.random((300, 3)), rng.integers(-1, 4, 300)
    order = rng.permutation(300)
    found = connected_components(points, classes, 0.1)
    np.testing.assert_array_equal(connected_components(points[order], classes[order], 0.1), found[order])


@pytest.mark.parametrize("classes", [np.zeros(0, dtype=int), np.full(3, -1)])
def test_nothing_to_connect(classes: np.ndarray) -> None:
    assert (connected_components(np.zeros((len(classes), 3)), classes, 1.0) == -1).all()
