"""Spatial crops of Gaussians that lie in Morton order: which matrix rows a sample takes."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
CropKind = Literal["sphere", "rows"]


def crop_rows(
    means: NDArray[np.float32], valid: NDArray[np.bool_], kind: CropKind, max_points: int, rng: np.random.Generator
) -> I64:
    """Rows of one crop, ascending; at most `max_points` of them (0 = no limit), around a Gaussian drawn from `valid`.

    "sphere" takes the nearest Gaussians to the drawn one; "rows" a contiguous range of Morton order that holds it
    (blocky in space, but read from the cache as one piece). Drawing the centre among Gaussians with visibility keeps
    crops from being empty of targets.

    Args:
        means: [N, 3] in metres, rows in Morton order. valid: [N], at least one True.
    """
    n = len(means)
    if max_points <= 0 or n <= max_points:
        return np.arange(n)
    center = int(rng.choice(np.flatnonzero(valid)))
    if kind == "rows":
        start = int(np.clip(center - rng.integers(max_points), 0, n - max_points))
        return np.arange(start, start + max_points)
    distance = ((means - means[center]) ** 2).sum(1)
    return np.sort(np.argpartition(distance, max_points - 1)[:max_points])
