"""The vector code of blending against the same arithmetic in plain Python, pixel after pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numba import njit
from numpy.typing import NDArray

from chorus_common.rasterize import lanes
from chorus_common.rasterize.lanes import LANES, MAX_SIGMA, PLANE, PLANES
from chorus_common.rasterize.splats import (
    BLUE,
    DEPTH,
    GREEN,
    MEAN_X,
    MEAN_Y,
    OPACITY,
    RED,
    ROW_CURVATURE,
    ROW_SIGMA,
    ROW_SLOPE,
    SPLAT_WIDTH,
)

F32 = NDArray[np.float32]
WEIGHTS = PLANES * PLANE


@njit
def exp_neg(values):  # type: ignore[no-untyped-def]
    lanes.exp_neg(values)


@njit
def blend_rows(state, splat, first, last, x0, y0, shares, into, fresh):  # type: ignore[no-untyped-def]
    lanes.blend_rows(state, splat, first, last, x0, y0, shares, into, fresh)


def plain_blend_rows(
    state: F32, splat: F32, first: int, last: int, x0: float, y0: float, shares: F32, into: int, fresh: bool
) -> None:
    """As `lanes.blend_rows`, in double precision between reading and writing the state."""
    s = splat.astype(np.float64)
    low = np.zeros(LANES) if fresh else state[into : into + LANES].astype(np.float64)
    high = np.zeros(LANES)
    for row in range(first, last):
        dy = y0 + row - s[MEAN_Y]
        for x in range(LANES):
            i = row * LANES + x
            dx = x0 + x - (s[MEAN_X] + dy * s[ROW_SLOPE])
            sigma = dy * dy * s[ROW_SIGMA] + s[ROW_CURVATURE] * dx * dx
            alpha = min(0.999, s[OPACITY] * math.exp(-min(sigma, MAX_SIGMA)))
            before = float(state[i])
            if alpha < 1 / 255:
                continue
            after = before * (1 - alpha)
            if after <= 1e-4:
                state[i] = -abs(before)
                continue
            state[i] = after
            for plane, value in enumerate((RED, GREEN, BLUE, DEPTH), start=1):
                state[plane * PLANE + i] += before * alpha * s[value]
            low[x] += shares[row] * before * alpha
            high[x] += shares[LANES + row] * before * alpha
    state[into : into + LANES], state[into + LANES : into + 2 * LANES] = low, high


def random_splat(rng: np.random.Generator) -> F32:
    splat = np.zeros(SPLAT_WIDTH, np.float32)
    splat[[MEAN_X, MEAN_Y]] = rng.uniform(95, 117, 2)
    splat[OPACITY], splat[DEPTH] = rng.uniform(0.01, 1), rng.uniform(1, 5)
    splat[ROW_SIGMA], splat[ROW_CURVATURE] = np.exp(rng.normal(-3, 1, 2))
    splat[ROW_SLOPE] = rng.normal()
    splat[[RED, GREEN, BLUE]] = rng.random(3)
    return splat


@pytest.mark.parametrize("seed", range(6))
def test_rows_are_blended_as_in_plain_python(seed: int) -> None:
    rng = np.random.default_rng(seed)
    state = np.zeros(WEIGHTS + 4 * LANES, np.float32)
    state[:PLANE] = rng.random(PLANE) ** 2
    state[: PLANE // 8] *= -1  # pixels that have stopped
    state[PLANE // 8 : PLANE // 4] *= 2e-4  # pixels that are about to
    state[PLANE:] = rng.random(len(state) - PLANE)
    share = rng.random(LANES)
    shares = np.concatenate([1 - share, share]).astype(np.float32)
    ours, plain = state.copy(), state.copy()
    for step in range(30):
        first, last = sorted(rng.integers(0, LANES + 1, 2))
        into = WEIGHTS + LANES * (step % 3)
        arguments = (random_splat(rng), first, last, 100.5, 98.5, shares, into, step % 2 == 0)
        blend_rows(ours, *(np.float32(a) if isinstance(a, float) else a for a in arguments))
        plain_blend_rows(plain, *arguments)
    np.testing.assert_array_equal(ours[:PLANE] < 0, plain[:PLANE] < 0)
    np.testing.assert_allclose(ours, plain, rtol=2e-5, atol=2e-6)
    assert (ours[:PLANE] < 0).sum() > PLANE // 8


def test_exp_is_within_its_stated_error() -> None:
    sigma = np.linspace(0, 5.59, 20_000, dtype=np.float32)
    got = sigma.copy()
    for begin in range(0, len(got), LANES):
        exp_neg(got[begin : begin + LANES])
    assert np.abs(got / np.exp(-sigma.astype(np.float64)) - 1).max() < 2e-6
    beyond = np.full(LANES, 1e30, np.float32)
    exp_neg(beyond)
    assert (beyond < 1 / 255).all()  # nothing may count there, even at opacity 1
