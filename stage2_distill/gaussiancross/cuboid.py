"""Cuboid normalisation: every scene fills the same cuboid, whatever its size and proportions, and its cameras with it.

GaussianCross (arXiv 2508.02172 as far as public) maps scale-inconsistent scenes into one cuboid "without missing
details"; its formula is not published. Ours is affine: each axis is divided by the scene's own extent along it. The
isotropic unit cube of its ancestor (PonderV2, ponder_indoor_base.py) leaves most of the grid of a flat or long room
empty and clips what sticks out; here no point is clipped and the map has an exact inverse.

    u = (x - centre) / size,   u in (-1/2, 1/2)^3

A camera follows as viewmat_u = viewmat_x o (u -> x). Its upper block is no rotation any more, and need not be one: a
rasteriser multiplies means and covariances by it, and z stays metres from the camera. So a picture of Gaussians in the
cuboid equals, pixel by pixel, that of the same Gaussians in the world.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.errors import SceneError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Share of the extent that is added in total along each axis, so that no point lies on the boundary.
MARGIN = 1e-3
#: Metres that an axis covers at least: a single wall is a scene, too, and its Gaussians have a thickness.
MIN_SIZE = 0.1


@dataclass(frozen=True, eq=False)
class Cuboid:
    """centre [3] and size [3] in metres of the box that becomes the unit cuboid."""

    centre: F64
    size: F64

    @staticmethod
    def of(points: NDArray[np.floating], *, who: str = "scene") -> Cuboid:
        """The cuboid of points [N, 3]; SceneError where there are none or one is not finite."""
        if len(points) == 0 or not np.isfinite(points).all():
            raise SceneError(f"{who}: has no points, or some that are not finite; no cuboid can hold it")
        low, high = points.min(0).astype(np.float64), points.max(0).astype(np.float64)
        return Cuboid((low + high) / 2, np.maximum((high - low) * (1 + MARGIN), MIN_SIZE))

    def forward(self, points: NDArray[np.floating]) -> F64:
        """World coordinates [N, 3] to the cuboid's."""
        return (np.asarray(points, dtype=np.float64) - self.centre) / self.size

    def inverse(self, points: NDArray[np.floating]) -> F64:
        """The cuboid's coordinates [N, 3] to the world's."""
        return np.asarray(points, dtype=np.float64) * self.size + self.centre

    @property
    def to_world(self) -> F64:
        """`inverse` as a matrix [4, 4]."""
        matrix = np.diag([*self.size, 1.0])
        matrix[:3, 3] = self.centre
        return matrix

    def viewmats(self, viewmats: F64) -> F64:
        """World-to-camera matrices [..., 4, 4] as cuboid-to-camera ones."""
        return viewmats @ self.to_world

    def cells(self, points: NDArray[np.floating], shape: tuple[int, int, int]) -> I64:
        """Cell [N] (x-major) of world points [N, 3] in a grid of `shape` cells over the cuboid.

        Points outside, which the cuboid's own points never are, go to the nearest cell.
        """
        index = np.floor((self.forward(points) + 0.5) * shape).astype(np.int64)
        index = np.clip(index, 0, np.array(shape) - 1)
        return (index[:, 0] * shape[1] + index[:, 1]) * shape[2] + index[:, 2]


def cell_centres(shape: tuple[int, int, int]) -> F64:
    """Centres [X * Y * Z, 3] of a grid's cells in the cuboid, in the order of `Cuboid.cells`."""
    axes = [(np.arange(n) + 0.5) / n - 0.5 for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
