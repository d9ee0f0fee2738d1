"""Chunks and thinning: boxes lie on the scene's grid, cover it, and hold what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2_distill.data.crops import chunk_rows, thinned
from stage2_distill.settings import ChunkSettings


@given(
    seed=st.integers(0, 2**16),
    size=st.floats(2, 8),
    step=st.floats(0.5, 1),
    height=st.none() | st.floats(2, 4),
    span=st.tuples(st.floats(0.1, 15), st.floats(0.1, 15)),
)
def test_boxes_lie_on_the_grid(
    seed: int, size: float, step: float, height: float | None, span: tuple[float, float]
) -> None:
    stride = step * min(size, height or size)
    rng = np.random.default_rng(seed)
    means = (rng.random((60, 3)) * [*span, 5.0] - 7).astype(np.float32)
    low = means.min(0).astype(np.float64)
    valid = np.ones(60, bool)
    for draw in range(12):
        rows = chunk_rows(
            means, valid, size=size, stride=stride, height=height, min_rows=1, rng=np.random.default_rng(draw)
        )
        assert len(rows)
        assert (np.diff(rows) > 0).all()
        extent = np.ptp(means[rows].astype(np.float64), axis=0)
        assert (extent[:2] <= size + 1e-4).all()
        assert height is None or extent[2] <= height + 1e-4
        for axis, side in enumerate((size, size, height)):  # some start on the grid holds all of the box
            if side is not None:
                place = means[rows, axis] - low[axis]
                start = np.floor(place.min() / stride + 1e-4) * stride
                starts = start - stride * np.arange(int(side / stride) + 2)
                assert any(place.min() >= s - 1e-3 and place.max() <= s + side + 1e-3 for s in starts)


def test_all_boxes_of_a_room() -> None:
    """10 x 6 m in boxes of 6 m at 4 m: two of them, from 0 and from 4 m."""
    x, y = np.meshgrid(np.linspace(0, 10, 101), np.linspace(0, 6, 61))
    means = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], 1).astype(np.float32)
    valid = np.ones(len(means), bool)
    found = set()
    for draw in range(40):
        rows = chunk_rows(means, valid, size=6.0, stride=4.0, height=None, min_rows=1, rng=np.random.default_rng(draw))
        found.add((round(float(means[rows, 0].min()), 2), round(float(means[rows, 0].max()), 2)))
    assert found == {(0.0, 6.0), (4.0, 10.0)}


def test_boxes_are_full_enough_or_the_fullest() -> None:
    rng = np.random.default_rng(0)
    means = np.concatenate([rng.random((90, 3)) * 3, rng.random((10, 3)) * 3 + [8.5, 0, 0]]).astype(np.float32)
    valid = np.ones(100, bool)
    sizes = {
        len(chunk_rows(means, valid, size=4, stride=4, height=None, min_rows=50, rng=np.random.default_rng(k)))
        for k in range(20)
    }
    assert sizes == {90}
    alone = chunk_rows(means, valid, size=4, stride=4, height=None, min_rows=10**6, rng=rng)
    assert len(alone) == 90
    valid[:90] = False  # nothing to learn in the full box
    assert len(chunk_rows(means, valid, size=4, stride=4, height=None, min_rows=50, rng=rng)) == 10


@pytest.mark.parametrize("cell", [0.05, 0.3])
def test_thinning_keeps_one_of_each_cell_and_prefers_targets(cell: float) -> None:
    rng = np.random.default_rng(1)
    means = rng.random((400, 3)).astype(np.float32)
    means -= means.min(0)
    valid = rng.random(400) < 0.3
    kept = thinned(means, valid, cell, np.random.default_rng(2))
    cells = [tuple(c) for c in np.floor(means.astype(np.float64) / cell).astype(int)]
    assert len(kept) == len(set(cells)) == len({cells[k] for k in kept})
    with_target = {c for c, v in zip(cells, valid) if v}
    assert all(valid[k] == (cells[k] in with_target) for k in kept)
    other = thinned(means, valid, cell, np.random.default_rng(3))
    assert cell < 0.1 or not np.array_equal(kept, other)


def test_boxes_with_gaps_are_refused() -> None:
    with pytest.raises(ValueError, match="boxes at a stride of 4 m would leave gaps"):
        ChunkSettings(size=3.0)
    with pytest.raises(ValueError, match="would leave gaps"):
        ChunkSettings(heights={"matterport3d": 2.0})
