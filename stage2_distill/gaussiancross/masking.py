"""Masking of input points by blocks of space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def visible_points(
    points: NDArray[np.floating], ratio: float, block: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Rows of points [N, 3] that stay, ascending: round(ratio B) of the B blocks that hold points go, but never all.

    Blocks are cubes of `block` metres on a grid whose origin is drawn, so that their borders are learnt nowhere.
    """
    if ratio <= 0:
        return np.arange(len(points))
    cell = np.floor((points - points.min(0)) / block + rng.random(3)).astype(np.int64)
    _, number = np.unique(cell, axis=0, return_inverse=True)
    number = number.reshape(-1)
    count = int(number.max()) + 1
    hidden = np.zeros(count, dtype=bool)
    hidden[rng.permutation(count)[: min(round(ratio * count), count - 1)]] = True
    return np.flatnonzero(~hidden[number])
