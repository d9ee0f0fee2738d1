"""Spacing of points of which most coincide, against as many distinct points: time must follow the number of points.

80 % at one place is what a depth camera leaves of the pixels without depth, and what made a k-d tree quadratic.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from chorus_common.scene_io import points_to_gaussians
from tests.bench.row import Row

COMMAND = "python -m tests.bench points"
N_POINTS, SHARE, ROUNDS = 500_000, 0.8, 3


def rows() -> list[Row]:
    """CPU seconds for 500,000 points to become Gaussians, normals estimated; ratio = coincident / distinct."""
    rng = np.random.default_rng(0)
    distinct = rng.uniform(0, 8, (N_POINTS, 3))
    coincident = distinct.copy()
    coincident[rng.random(N_POINTS) < SHARE] = 0.0
    _seconds(distinct[:1000])
    pairs = [(_seconds(coincident), _seconds(distinct)) for _ in range(ROUNDS)]
    ours, theirs = (float(np.median(side)) for side in zip(*pairs))
    ratio = ours / theirs
    return [Row("points/coincident", ours, "CPU s per 500k points", ratio, COMMAND, "distinct points", theirs)]


def _seconds(points: NDArray[np.float64]) -> float:
    colors = np.full(points.shape, 0.5)
    started = time.process_time()
    points_to_gaussians(points, colors)
    return time.process_time() - started
