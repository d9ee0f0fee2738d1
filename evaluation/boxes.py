"""Oriented boxes of sets of Gaussians: upright in the scene's frame, told in the frame and unit of the user's file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError

from chorus_common.scene_check import Alignment

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OrientedBox:
    """centre [3]; axes [3, 3], unit rows, the last one up; size [3], the full length along each axis."""

    centre: F64
    axes: F64
    size: F64

    def in_file(self, alignment: Alignment) -> OrientedBox:
        """The box in the frame and the unit of the file that `alignment` starts from."""
        axes = self.axes if alignment.is_identity else self.axes @ alignment.rotation
        return OrientedBox(alignment.points_back(self.centre[None])[0], axes, self.size / alignment.scale)

    def as_dict(self, decimals: int = 6) -> dict[str, Any]:
        """For JSON."""
        return {key: np.round(getattr(self, key), decimals).tolist() for key in ("centre", "axes", "size")}


def oriented_box(points: NDArray[np.floating]) -> OrientedBox:
    """The upright box of least area in x and y around `points` [P, 3], P >= 1, z up.

    One side of the rectangle of least area lies along an edge of the convex hull (Freeman and Shapira 1975).
    """
    places: F64 = np.asarray(points, dtype=np.float64)
    flat: F64 = places[:, :2]
    try:
        hull: F64 = flat[ConvexHull(flat).vertices]  # counter-clockwise
    except (QhullError, ValueError):  # fewer than three places, or all on a line
        hull = _ends(flat)
    edges = np.roll(hull, -1, axis=0) - hull
    edges = edges[np.linalg.norm(edges, axis=1) > 0]
    angles = np.unique(np.round(np.arctan2(edges[:, 1], edges[:, 0]) % (np.pi / 2), 9)) if len(edges) else np.zeros(1)
    first = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # [A, 2]
    second = np.stack([-first[:, 1], first[:, 0]], axis=1)
    along, across = hull @ first.T, hull @ second.T  # [H, A]
    best = int((np.ptp(along, axis=0) * np.ptp(across, axis=0)).argmin())
    axes = np.zeros((3, 3))
    axes[0, :2], axes[1, :2], axes[2, 2] = first[best], second[best], 1.0
    at = places @ axes.T
    low, high = at.min(axis=0), at.max(axis=0)
    return OrientedBox((low + high) / 2 @ axes, axes, high - low)


def _ends(flat: F64) -> F64:
    """The two ends [2, 2] of points on a line."""
    spread = flat - flat.mean(axis=0)
    direction = np.linalg.svd(spread, full_matrices=False)[2][0]
    at = spread @ direction
    return flat[[int(at.argmin()), int(at.argmax())]]
