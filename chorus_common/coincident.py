"""Points that lie at one and the same place: neighbour searches ask about the distinct places alone.

A k-d tree cannot split equal points: they all end in one leaf, which every search among them then scans, so that time
grows with the square of their number (scipy issues 6108 and 6444). Scans with missing depth hold thousands of points at
the origin; merged ones hold every point twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

I64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Places:
    """The P distinct places among N points.

    Attributes:
        first  [P] the first point at each place, ascending.
        of     [N] the place of each point.
        points [N] all points, place by place, within a place in their order; those of place p are
               points[start[p] : start[p + 1]].
        start  [P + 1].
    """

    first: I64
    of: I64
    points: I64
    start: I64

    @property
    def all_distinct(self) -> bool:
        """Whether no two points coincide."""
        return len(self.first) == len(self.of)


def distinct_places(points: NDArray[np.floating]) -> Places:
    """The distinct places among `points` [N, 3], numbered in the order of their first points; N log N."""
    n = len(points)
    x, y, z = (np.asarray(points[:, axis]) + 0.0 for axis in range(3))  # + 0.0: minus zero is zero
    order = np.lexsort((z, y, x))
    same = (np.diff(x[order]) == 0) & (np.diff(y[order]) == 0) & (np.diff(z[order]) == 0)
    group = np.zeros(n, np.int64)
    group[1:] = np.cumsum(~same)
    starts = np.flatnonzero(np.concatenate([[True], ~same])) if n else np.empty(0, np.int64)
    # lexsort is stable, so the first point of a group is its lowest
    by_first = np.argsort(order[starts], kind="stable")
    number = np.empty(len(starts), np.int64)
    number[by_first] = np.arange(len(starts))
    of = np.empty(n, np.int64)
    of[order] = number[group]
    members = np.argsort(of, kind="stable")
    counts = np.bincount(of, minlength=len(starts))
    return Places(order[starts][by_first], of, members, np.concatenate([[0], np.cumsum(counts)]))


def nearest_points(places: Places, near: I64, k: int) -> I64:
    """The k nearest points [M, k] from the nearest places `near` [M, K] (nearest first), K = k or all places.

    Points at one place come in their order.
    """
    counts = (places.start[1:] - places.start[:-1])[near]  # [M, K]
    upto = np.cumsum(counts, axis=1)
    slots = np.arange(k)
    column = (upto[:, :, None] <= slots).sum(1)  # [M, k]: the column of `near` that holds the slot
    before = np.take_along_axis(upto - counts, column, axis=1)
    return places.points[places.start[np.take_along_axis(near, column, axis=1)] + slots - before]


def place_tree(points: NDArray[np.floating]) -> tuple[Places, cKDTree]:
    """The distinct places of `points` [N, 3] and a tree over them; row p of the tree is place p."""
    places = distinct_places(points)
    return places, cKDTree(points if places.all_distinct else points[places.first])
