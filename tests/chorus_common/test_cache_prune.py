"""Making the lifting index small: what is dropped, what is rounded, and what that does to a lifted feature."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from chorus_common.cache.prune import prune_index, round_weights
from chorus_common.lifting import CellGrid, LiftingIndex
from tests.chorus_common.cache_example import make_example


def heavy_tailed(seed: int = 0, n: int = 200) -> LiftingIndex:
    """Rows of very uneven weights, as surfaces behind others give."""
    index = make_example(seed, n=n).index
    weights = np.random.default_rng(seed).lognormal(-1, 3, len(index.weights)).astype(np.float32)
    return replace(index, weights=np.clip(weights, 1e-6, 200))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2])
def test_the_smallest_entries_go_while_they_fit(share: float) -> None:
    """Compared with a plain loop over rows."""
    index = heavy_tailed()
    pruned = prune_index(index, share)
    for row in range(len(index)):
        a, b = index.indptr[row : row + 2]
        weights = index.weights[a:b].astype(np.float64)
        rank = np.argsort(weights, kind="stable")
        gone = rank[np.cumsum(weights[rank]) <= share * weights.sum()]
        kept = np.setdiff1d(np.arange(b - a), gone)
        c, d = pruned.indptr[row : row + 2]
        np.testing.assert_array_equal(pruned.columns[c:d], index.columns[a:b][kept])
        assert (d > c) == (b > a), "a Gaussian with visibility keeps some"
        if b > a:
            assert weights[gone].sum() <= share * weights.sum() + 1e-12
    assert pruned.dropped <= share
    if share == 0.01:
        assert len(pruned.columns) < 0.8 * len(index.columns)


@given(arrays(np.float32, st.integers(0, 50), elements=st.floats(2.0**-23, 60000, width=32)), st.integers(1, 10))
def test_rounding_error_is_bounded_and_nothing_vanishes(weights: np.ndarray, mantissa: int) -> None:
    rounded = round_weights(weights, mantissa).astype(np.float64)
    assert np.isfinite(rounded).all()
    assert (rounded > 0).all()
    normal = weights >= 2.0**-14
    # the bound of our rounding, and fp16's own before it
    bound = 2.0 ** -(mantissa + 1) * 1.001 + 2.0**-11
    assert (np.abs(rounded - weights)[normal] <= bound * weights[normal]).all()
    low_bits = round_weights(weights, mantissa).view(np.uint16) & ((1 << (10 - mantissa)) - 1)
    assert (low_bits == 0).all()


def test_weights_beyond_fp16_stay_finite() -> None:
    assert np.isfinite(round_weights(np.array([65504, 1e6], np.float32), 4)).all()
    assert round_weights(np.zeros(2, np.float32), 4).tolist() == [0, 0]


def test_lifted_features_hardly_change() -> None:
    index = heavy_tailed(1)
    pruned = prune_index(index)
    small = LiftingIndex(index.order, pruned.indptr, pruned.columns, pruned.weights, index.grid, index.n_views)
    features = np.random.default_rng(0).normal(size=(index.n_columns, 64)).astype(np.float32)
    exact, weight = index.lift(features)
    found, _ = small.lift(features)
    seen = weight > 0
    dot = (exact * found).sum(1)[seen]
    cosine = dot / np.linalg.norm(exact[seen], axis=1) / np.linalg.norm(found[seen], axis=1)
    assert cosine.mean() > 0.999
    assert cosine.min() > 0.99
    np.testing.assert_array_equal(seen, small.visibility()[0] > 0)


def test_grid_and_order_are_not_touched() -> None:
    index = heavy_tailed(2)
    assert index.grid == CellGrid(40, 24, 8)
    assert len(prune_index(index).indptr) == len(index) + 1
