from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.proposals.merged_masks import MergeConfig, drop_duplicates, objects
from evaluation.proposals.observations import NO_MASK, UNSEEN, Observations
from evaluation.proposals.overlap_graph import merge_masks, overlap_counts
from evaluation.proposals.proposals import rows_to_masks


def random_observations(seed: int, n: int = 40, n_views: int = 4, per_view: int = 3) -> Observations:
    """Three objects of which every view sees a part, with some masks split, merged or missing."""
    rng = np.random.default_rng(seed)
    table = np.full((n, n_views), UNSEEN, dtype=np.int32)
    truth = rng.integers(0, per_view, n)
    for v in range(n_views):
        ids = np.where(rng.random(n) < 0.15, rng.integers(0, per_view, n), rng.permutation(per_view)[truth])
        table[:, v] = ids + v * per_view
        table[rng.random(n) < 0.1, v] = NO_MASK
        table[rng.random(n) < 0.3, v] = UNSEEN
    return Observations(table, np.arange(n_views + 1) * per_view)


def view_of(observations: Observations, mask: int) -> int:
    return int(np.searchsorted(observations.offsets, mask, side="right")) - 1


def plain_counts(observations: Observations) -> tuple[np.ndarray, np.ndarray]:
    q, table = observations.n_masks, observations.mask
    both, either = np.zeros((q, q), int), np.zeros((q, q), int)
    for a, b in itertools.permutations(range(q), 2):
        va, vb = view_of(observations, a), view_of(observations, b)
        in_a, in_b = set(np.flatnonzero(table[:, va] == a)), set(np.flatnonzero(table[:, vb] == b))
        seen_a, seen_b = set(np.flatnonzero(table[:, va] != UNSEEN)), set(np.flatnonzero(table[:, vb] != UNSEEN))
        both[a, b] = len(in_a & in_b)
        # Gaussians of either mask that the other's view sees
        either[a, b] = len(in_a & seen_b) + len(in_b & seen_a) - len(in_a & in_b)
    return both, either


def plain_groups(observations: Observations, threshold: float, min_size: int) -> list[list[int]]:
    """Average linkage by the definition: all pairs of groups, all pairs of masks, again and again."""
    both, either = plain_counts(observations)
    sizes = [int((observations.mask == a).sum()) for a in range(observations.n_masks)]
    groups = [[a] for a in range(observations.n_masks) if sizes[a] >= min_size]
    while True:
        best, pair = threshold, None
        for x, y in itertools.combinations(range(len(groups)), 2):
            shared = sum(both[a, b] for a in groups[x] for b in groups[y])
            total = sum(either[a, b] for a in groups[x] for b in groups[y])
            if shared > 0 and shared / total > best:
                best, pair = shared / total, (x, y)
        if pair is None:
            return sorted(sorted(group) for group in groups)
        x, y = pair
        groups[x] = groups[x] + groups.pop(y)
        groups.sort(key=min)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_merging_equals_plain_average_linkage(seed: int) -> None:
    observations = random_observations(seed)
    for found, expected in zip(overlap_counts(observations), plain_counts(observations)):
        np.testing.assert_array_equal(found, expected)
    group = merge_masks(observations, threshold=0.3, min_size=3)
    found = [np.flatnonzero(group == g).tolist() for g in np.unique(group[group >= 0])]
    assert sorted(found) == plain_groups(observations, 0.3, 3)


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_order_of_gaussians_changes_nothing(seed: int) -> None:
    observations = random_observations(seed, n=80)
    order = np.random.default_rng(seed).permutation(80)
    shuffled = Observations(observations.mask[order], observations.offsets)
    group = merge_masks(observations, threshold=0.4, min_size=3)
    np.testing.assert_array_equal(group, merge_masks(shuffled, threshold=0.4, min_size=3))
    config = MergeConfig(min_size=3)
    first, second = objects(observations, group, config), objects(shuffled, group, config)
    assert [score for _, score in first] == [score for _, score in second]
    for (rows, _), (others, _) in zip(first, second):
        assert sorted(order[others]) == rows.tolist()


def test_objects_need_the_agreement_of_the_views_that_see_a_gaussian() -> None:
    table = np.array([[0, 1], [0, 1], [0, NO_MASK], [0, UNSEEN], [NO_MASK, NO_MASK]], dtype=np.int32)
    observations = Observations(table, np.array([0, 1, 2]))
    group = np.array([0, 0], dtype=np.int32)
    ((rows, score),) = objects(observations, group, MergeConfig(min_size=1))
    assert rows.tolist() == [0, 1, 3]  # row 2 has one vote of two, which is not more than half
    assert score == pytest.approx(1.0 * 2 / 3)
    ((rows, score),) = objects(observations, group, MergeConfig(min_size=1, agreement=0.4))
    assert rows.tolist() == [0, 1, 2, 3]
    assert score == pytest.approx((1 + 1 + 0.5 + 1) / 4 * 2 / 3)
    assert objects(observations, group, MergeConfig(min_size=5)) == []


def test_duplicates_leave_the_better_one() -> None:
    masks = rows_to_masks([np.arange(0, 10), np.arange(0, 9), np.arange(5, 20), np.arange(0, 9)], 30)
    assert drop_duplicates(masks, np.array([0.5, 0.9, 0.5, 0.9]), 0.7) == [1, 2]
    assert drop_duplicates(masks, np.array([0.5, 0.9, 0.5, 0.9]), 0.95) == [1, 2, 0]
    assert drop_duplicates(masks[:0], np.zeros(0), 0.7) == []
