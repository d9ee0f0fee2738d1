"""Connected components of points that lie within a radius of each other, without listing the pairs.

Shifted points collapse onto the middle of their instance: the pairs within the radius are then quadratic in the size of
the instance, and published implementations cap the neighbours of a point (PointGroup: 300 or 1000), which makes the
result depend on the order of the points. Here points are binned into cells whose diagonal is the radius. Points of one
cell are connected by construction, so what is left to ask is whether two near cells hold one pair within the radius.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Half of the cells that can hold a point within the radius (side = radius / sqrt(3): up to two cells away per axis).
_NEAR = np.array(
    [
        (x, y, z)
        for x in range(-2, 3)
        for y in range(-2, 3)
        for z in range(-2, 3)
        if (x, y, z) > (0, 0, 0)
    ],
    dtype=np.int64,
)  # fmt: skip


def connected_components(points: NDArray[np.floating], classes: NDArray[np.integer], radius: float) -> I64:
    """Component [N] of every point: points of one class are linked where they are at most `radius` apart.

    Points of class -1 belong to none (-1). Components are numbered by class and then by their least point in
    (x, y, z) order, so that the order of the rows changes no number.

    Args:
        points: [N, 3] metres, finite. classes: [N].
    """
    result = np.full(len(points), -1, dtype=np.int64)
    rows = np.flatnonzero(np.asarray(classes) >= 0)
    if len(rows) == 0:
        return result
    at, kind = np.asarray(points, dtype=np.float64)[rows], np.asarray(classes, dtype=np.int64)[rows]
    cell = np.floor((at - at.min(axis=0)) / (radius / np.sqrt(3.0))).astype(np.int64) + 2
    size = cell.max(axis=0) + 3
    key = ((kind * size[0] + cell[:, 0]) * size[1] + cell[:, 1]) * size[2] + cell[:, 2]
    order = np.argsort(key, kind="stable")
    keys, starts = np.unique(key[order], return_index=True)
    steps = (_NEAR[:, 0] * size[1] + _NEAR[:, 1]) * size[2] + _NEAR[:, 2]
    root = _link(keys, np.append(starts, len(order)), steps, at[order], radius * radius)
    component = np.empty(len(rows), dtype=np.int64)
    component[order] = np.repeat(root, np.diff(np.append(starts, len(order))))
    # Number by (class, least point): the first row of each component in that order.
    rank = np.lexsort((at[:, 2], at[:, 1], at[:, 0], kind))
    _, first, inverse = np.unique(component[rank], return_index=True, return_inverse=True)
    number = np.empty(len(first), dtype=np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    result[rows[rank]] = number[inverse]
    return result


@njit(cache=True, nogil=True)
def _link(keys, starts, steps, points, radius_2):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Root cell [C] of every cell: union-find over pairs of cells that hold a pair of points within the radius.

    keys [C] ascending; points grouped by cell, starts [C + 1]; steps: differences of keys of cells that are near.
    """
    n = keys.shape[0]
    parent = np.arange(n)
    for step in steps:
        j = 0
        for i in range(n):
            wanted = keys[i] + step
            while j < n and keys[j] < wanted:
                j += 1
            if j == n:
                break
            if keys[j] != wanted:
                continue
            a, b = i, j
            while parent[a] != a:
                parent[a] = parent[parent[a]]
                a = parent[a]
            while parent[b] != b:
                parent[b] = parent[parent[b]]
                b = parent[b]
            if a == b:
                continue
            linked = False
            for p in range(starts[i], starts[i + 1]):
                for q in range(starts[j], starts[j + 1]):
                    dx = points[p, 0] - points[q, 0]
                    dy = points[p, 1] - points[q, 1]
                    dz = points[p, 2] - points[q, 2]
                    if dx * dx + dy * dy + dz * dz <= radius_2:
                        linked = True
                        break
                if linked:
                    break
            if linked:
                parent[max(a, b)] = min(a, b)
    for i in range(n):
        a = i
        while parent[a] != a:
            a = parent[a]
        parent[i] = a
    return parent
