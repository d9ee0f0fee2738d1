"""Bounds of columns against numpy's reduction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus_common.bounds import bounds


@given(st.integers(1, 40), st.integers(1, 4), st.sampled_from([np.float32, np.float64, np.int64]), st.integers(0, 99))
def test_equals_numpys_reduction(rows: int, columns: int, kind: type, seed: int) -> None:
    values = (np.random.default_rng(seed).standard_normal((rows, columns)) * 100).astype(kind)
    low, high = bounds(values)
    assert low.dtype == high.dtype == values.dtype
    np.testing.assert_array_equal(low, values.min(0))
    np.testing.assert_array_equal(high, values.max(0))


def test_nan_and_nothing() -> None:
    values = np.array([[0.0, np.nan], [1.0, 2.0]])
    np.testing.assert_array_equal(bounds(values), [[0, np.nan], [1, np.nan]])
    with pytest.raises(ValueError, match="zero-size"):
        bounds(np.zeros((0, 3)))
