"""Frames, bounds and spread samples of points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def upright_frame(up: tuple[float, float, float]) -> F64:
    """Orthonormal rows [3, 3], right-handed, the last along `up`; z up gives the identity."""
    axis = np.asarray(up, np.float64) / np.linalg.norm(up)
    first = np.cross([0.0, 1.0, 0.0], axis) if abs(axis[1]) < 0.9 else np.cross(axis, [0.0, 0.0, 1.0])
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(axis, first), axis])


def robust_bounds(points: F64, weights: NDArray[np.floating], cut: float = 0.005) -> tuple[F64, F64]:
    """Low and high corner [3] of points [N, 3] without the `cut` lightest share of the weight [N] on either side of
    each axis."""
    low, high = np.empty(3), np.empty(3)
    for axis in range(3):
        order = np.argsort(points[:, axis], kind="stable")
        mass = np.cumsum(weights[order], dtype=np.float64)
        low[axis] = points[order[np.searchsorted(mass, cut * mass[-1])], axis]
        high[axis] = points[order[min(np.searchsorted(mass, (1 - cut) * mass[-1]), len(order) - 1)], axis]
    return low, high


def furthest_points(points: F64, count: int, first: int) -> NDArray[np.int64]:
    """Furthest-point sampling: up to `count` rows of points [P, 3], from row `first` on, ties by index; stops when
    all are taken."""
    chosen = [first]
    distance = np.linalg.norm(points - points[first], axis=1)
    while len(chosen) < min(count, len(points)):
        following = int(np.argmax(distance))
        if distance[following] <= 0:
            break
        chosen.append(following)
        distance = np.minimum(distance, np.linalg.norm(points - points[following], axis=1))
    return np.array(chosen)
