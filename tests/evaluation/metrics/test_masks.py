"""Pair counts against dense masks: stretches, gaps, masks in any order, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from evaluation.metrics.masks import count_pairs, ground_truth
from evaluation.metrics.semantic import MetricError


def pieces(rng: np.random.Generator, n: int, longest: int) -> np.ndarray:
    """[n] numbers in runs of random lengths, some of them -1."""
    lengths = rng.integers(1, longest + 1, size=n)
    return np.repeat(rng.integers(-1, 5, size=n), lengths)[:n]


@given(st.integers(0, 2**31), st.integers(1, 120), st.sampled_from([1, 3, 12, 60]), st.sampled_from([0.0, 0.03, 0.5]))
@settings(max_examples=150, deadline=None)
def test_counts_equal_those_of_dense_masks(seed: int, n: int, longest: int, missing: float) -> None:
    rng = np.random.default_rng(seed)
    instances = pieces(rng, n, longest)
    class_of = rng.integers(-1, 3, size=5)
    labels = np.where(instances >= 0, class_of[np.maximum(instances, 0)], rng.integers(-1, 3, size=n))
    masks = []
    for _ in range(6):
        a, b = np.sort(rng.integers(0, n + 1, size=2))
        mask = np.arange(a, b)[rng.random(b - a) >= missing]
        masks.append(rng.permutation(mask) if rng.random() < 0.2 else mask)
    asked = rng.integers(-1, 3, size=len(masks))
    truth = ground_truth(labels, instances)
    present = sorted({(int(class_of[i]), int(i)) for i in instances if i >= 0 and class_of[i] >= 0})
    number = {i: g for g, (_, i) in enumerate(present)}
    assert truth.group.tolist() == [number.get(int(i), -1) for i in instances]
    found = count_pairs(masks, asked, truth)
    assert found.sizes.tolist() == [len(m) for m in masks]
    assert found.void.tolist() == [int((truth.group[m] < 0).sum()) for m in masks]
    expected = {
        (j, g): shared
        for j, m in enumerate(masks)
        for g in range(len(truth.classes))
        if truth.classes[g] == asked[j] and (shared := int((truth.group[m] == g).sum()))
    }
    assert dict(zip(zip(found.mask.tolist(), found.instance.tolist()), found.shared.tolist())) == expected
    assert truth.sizes.tolist() == [int((truth.group == g).sum()) for g in range(len(truth.classes))]
    dense = np.zeros((len(masks), n), dtype=bool)
    for row, mask in zip(dense, masks):
        row[mask] = True
    for form in (sparse.csr_matrix(dense), dense):
        again = count_pairs(form, asked, truth)
        assert (again.shared.tolist(), again.void.tolist()) == (found.shared.tolist(), found.void.tolist())


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 30], "outside"),
        ([-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9], "outside"),
        ([9, 3, -2], "outside"),
        ([3, 4, 5, 6, 7, 8, 9, 10, 11, 11], "twice"),
        ([5, 1, 5], "twice"),
    ],
)
def test_bad_indices_are_refused(mask: list[int], message: str) -> None:
    truth = ground_truth(np.zeros(30, np.int64), np.zeros(30, np.int64))
    with pytest.raises(MetricError, match=f"room: mask 1 .*{message}"):
        count_pairs([np.arange(4), np.array(mask)], np.array([0, 0]), truth, who="room")
