"""Rows of evaluation: carrying predictions from Gaussians to points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from evaluation.neighbours import neighbour_vote
from tests.bench.measure import interleaved
from tests.bench.row import Row

F64 = NDArray[np.float64]

_N, _K, _CLASSES, _ROUNDS = 200_000, 25, 200, 3


def rows() -> list[Row]:
    """CPU seconds per million points of the vote of 25 neighbours, against the same vote in file order."""
    rng = np.random.default_rng(0)
    means, points = _walls(rng, _N), _walls(rng, _N)
    classes = rng.integers(0, _CLASSES, _N).astype(np.int32)
    times = interleaved(
        lambda: neighbour_vote(means, classes, points, _CLASSES, k=_K), lambda: _plain_vote(means, classes, points),
        rounds=_ROUNDS,
    )  # fmt: skip
    return [
        times.row(
            "evaluation/knn-transfer", "CPU s per million points", "python -m tests.bench evaluation",
            "k-d tree in file order, votes by numpy", scale=1e6 / _N,
        )
    ]  # fmt: skip


def _walls(rng: np.random.Generator, n: int) -> F64:
    """Points on the six sides of a 6 x 5 x 3 m room, 5 mm thick."""
    size = np.array([6.0, 5.0, 3.0])
    side, points, row = rng.integers(0, 6, n), rng.random((n, 3)) * size, np.arange(n)
    points[row, side % 3] = np.where(side < 3, 0, size[side % 3]) + rng.normal(0, 0.005, n)
    return points


def _plain_vote(means: F64, classes: NDArray[np.int32], points: F64) -> NDArray[np.int64]:
    """SceneSplat's steps (pointcept/utils/misc.py): one tree, one query, a count per point."""
    _, near = cKDTree(means).query(points, k=_K)
    result = np.empty(len(points), np.int64)
    for start in range(0, len(points), 10_000):
        votes = classes[near[start : start + 10_000]]  # [rows, k]
        keys = np.arange(len(votes))[:, None] * _CLASSES + votes
        counts = np.bincount(keys.reshape(-1), minlength=len(votes) * _CLASSES)
        result[start : start + 10_000] = counts.reshape(len(votes), _CLASSES).argmax(axis=1)
    return result
