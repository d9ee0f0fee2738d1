"""Spacing of points of which most coincide, against as many distinct points: time must follow the number of points.

80 % at one place is what a depth camera leaves of the pixels without depth, and what made a k-d tree quadratic.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from chorus_common.scene_io import points_to_gaussians
from tests.bench.measure import interleaved
from tests.bench.row import Row

COMMAND = "python -m tests.bench points"
N_POINTS, SHARE, ROUNDS = 500_000, 0.8, 3


def rows() -> list[Row]:
    """CPU seconds for 500,000 points to become Gaussians, normals estimated; ratio = coincident / distinct."""
    rng = np.random.default_rng(0)
    distinct = rng.uniform(0, 8, (N_POINTS, 3))
    coincident = distinct.copy()
    coincident[rng.random(N_POINTS) < SHARE] = 0.0
    colors = np.full(distinct.shape, 0.5)
    times = interleaved(
        partial(points_to_gaussians, coincident, colors), partial(points_to_gaussians, distinct, colors), rounds=ROUNDS
    )
    return [times.row("points/coincident", "CPU s per 500k points", COMMAND, "distinct points")]
