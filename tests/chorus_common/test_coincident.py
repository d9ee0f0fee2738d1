"""Distinct places and neighbours among points that coincide, against loops over all pairs; and time."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_common.coincident import distinct_places, nearest_points, place_tree
from chorus_common.scene_io import PointCloudOptions, points_to_gaussians


def cloud(seed: int, n: int) -> np.ndarray:
    """Points on a coarse grid: many coincide, some at minus zero."""
    rng = np.random.default_rng(seed)
    points = rng.integers(-2, 3, (n, 3)).astype(np.float64)
    points[rng.random(n) < 0.3] *= -1.0
    return points


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(0, 120))
def test_places_against_a_dictionary(seed: int, n: int) -> None:
    points = cloud(seed, n)
    places = distinct_places(points)
    seen: dict[tuple[float, ...], int] = {}
    for row, point in enumerate(points.tolist()):
        key = tuple(value + 0.0 for value in point)
        number = seen.setdefault(key, len(seen))
        assert places.of[row] == number
    assert len(places.first) == len(seen)
    assert (np.diff(places.first) > 0).all()
    assert places.all_distinct == (len(seen) == n)
    for number in range(len(seen)):
        members = places.points[places.start[number] : places.start[number + 1]]
        assert members.tolist() == np.flatnonzero(places.of == number).tolist()
        assert members[0] == places.first[number]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 90), k=st.integers(1, 12))
def test_nearest_points_against_all_distances(seed: int, n: int, k: int) -> None:
    points = cloud(seed, n)
    queries = np.random.default_rng(seed + 1).normal(size=(15, 3))
    k = min(k, n)
    places, tree = place_tree(points)
    _, near = tree.query(queries, k=min(k, len(places.first)))
    rows = nearest_points(places, np.asarray(near).reshape(len(queries), -1), k)
    for query, found in zip(queries, rows):
        assert len(set(found.tolist())) == k
        distance = np.linalg.norm(points - query, axis=1)
        np.testing.assert_allclose(distance[found], np.sort(distance)[:k])


def test_spacing_is_that_of_the_distinct_places() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 3, (400, 3))
    copies = np.concatenate([points, points[rng.integers(0, 400, 900)], np.zeros((700, 3))])
    colors = rng.random((len(copies), 3))
    alone = points_to_gaussians(np.concatenate([points, np.zeros((1, 3))]), colors[:401])
    found = points_to_gaussians(copies, colors)
    np.testing.assert_array_equal(found.scales[:400], alone.scales[:400])
    np.testing.assert_allclose(np.abs((found.normals[:400] * alone.normals[:400]).sum(1)), 1, atol=1e-6)
    assert len(np.unique(found.scales[1300:], axis=0)) == 1
    np.testing.assert_array_equal(found.scales[1300], alone.scales[400])


def test_a_cloud_at_one_place_has_the_smallest_size() -> None:
    scene = points_to_gaussians(np.ones((50, 3)), np.full((50, 3), 0.5), options=PointCloudOptions()).validated()
    np.testing.assert_allclose(scene.scales[:, 0], 3.2e-4)


def test_time_does_not_grow_with_the_square() -> None:
    rng = np.random.default_rng(1)

    def seconds(points: np.ndarray) -> float:
        started = time.process_time()
        points_to_gaussians(points, np.full((len(points), 3), 0.5), np.tile([0.0, 0.0, 1.0], (len(points), 1)))
        return time.process_time() - started

    distinct = rng.uniform(0, 5, (100_000, 3))
    mostly_one = np.concatenate([distinct[:20_000], np.zeros((80_000, 3))])
    seconds(distinct[:1000])
    assert seconds(mostly_one) < 2 * seconds(distinct)  # 40 times, before


@pytest.mark.parametrize("n", [0, 1])
def test_few_points(n: int) -> None:
    places = distinct_places(np.zeros((n, 3)))
    assert len(places.first) == n
    assert places.start.tolist() == list(range(n + 1))
