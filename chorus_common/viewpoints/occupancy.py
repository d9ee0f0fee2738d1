"""A scene as solid and free voxels.

A voxel is solid where the Gaussians in it would stop a good part of a ray: their area times opacity is at least
`SOLID_AREA` of the voxel's face. A lone floater does not, a wall of a few large flat Gaussians does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import ndtri

from chorus_common.scene import GaussianScene
from chorus_common.scene_check.outliers import cell_width, in_large_groups
from chorus_common.viewpoints.geometry import robust_bounds

F64 = NDArray[np.float64]

#: Opacity below which a Gaussian is left out, and the area, in faces of a voxel, from which a voxel is solid.
LEAST_OPACITY, SOLID_AREA = 0.05, 0.3
#: A voxel is at most this wide, metres, and no finer than the side of the bounds over `FINEST`, unless that is wider.
WIDTH, FINEST, COARSEST = 0.15, 64, 16
#: Metres of free space above everything, so that one may stand on a roof, and at most how many voxels that are.
OVERHEAD, MOST_OVERHEAD = 1.6, 12
#: Voxels of a grid. Wide surroundings are cut, at most this share of the surface on every side, to keep voxels small.
MOST_VOXELS, MOST_CUT = 6_000_000, 0.1
#: Where Gaussians leave holes between them, a voxel is this many times as wide as their spacing.
SPACING_VOXELS = 1.5
#: Rows that bounds and spacing are read from, and samples that all Gaussians together are spread over.
SAMPLE, MOST_SAMPLES = 200_000, 3e8


@dataclass(frozen=True, eq=False)
class Occupancy:
    """Voxels of `step` metres in an upright frame: world = (low + (voxel + 0.5) step) @ frame.

    Attributes:
        frame [3, 3]: rows are the upright axes (the last is up) in world coordinates.
        low [3]: the grid's corner in the upright frame, metres.
        area [X, Y, Z] f32: surface in each voxel, in faces of a voxel; solid [X, Y, Z] bool.
    """

    frame: F64
    low: F64
    step: float
    area: NDArray[np.float32]
    solid: NDArray[np.bool_]

    def voxels_of(self, points: NDArray[np.floating]) -> F64:
        """World points [P, 3] in voxels; the middle of the first voxel is 0.5, 0.5, 0.5."""
        return np.asarray((points.astype(np.float64) @ self.frame.T - self.low) / self.step)

    def centres_of(self, voxels: NDArray[np.integer]) -> F64:
        """World points [P, 3] of the middles of voxels [P, 3]."""
        return np.asarray((self.low + (voxels + 0.5) * self.step) @ self.frame)


def occupy(scene: GaussianScene, frame: F64) -> Occupancy:
    """The voxels of `scene` in `frame`; memory is bounded by `MOST_VOXELS`, time grows linearly with the Gaussians."""
    from chorus_common.viewpoints.kernels import (  # numba takes a moment to import
        SAMPLES_PER_SIGMA,
        deposit,
        samples_needed,
    )

    low, high, step = _bounds(scene, frame)
    low = low - step  # a voxel of margin, so that walls lie inside the grid
    shape = np.maximum(np.ceil((high + step - low) / step), 1).astype(int)
    shape[2] += min(int(OVERHEAD / step), MOST_OVERHEAD)
    area = np.zeros(tuple(shape), dtype=np.float32)
    most = 40
    while most > 3 and (
        samples_needed(scene.scales, scene.opacities, LEAST_OPACITY, SAMPLES_PER_SIGMA / step, most) > MOST_SAMPLES
    ):
        most //= 2
    quantiles = np.zeros((most + 1, most))
    for n in range(1, most + 1):
        quantiles[n, :n] = ndtri((np.arange(n) + 0.5) / n)
    deposit(
        scene.means, scene.quats, scene.scales, scene.opacities, frame, low, step, LEAST_OPACITY, most, quantiles, area
    )
    return Occupancy(frame, low, step, area, area >= SOLID_AREA)


def _bounds(scene: GaussianScene, frame: F64) -> tuple[F64, F64, float]:
    """Low and high corner [3] of what is looked at, in `frame`, and the width of a voxel."""
    rows = np.flatnonzero(scene.opacities >= LEAST_OPACITY)
    if len(rows) == 0:
        return np.zeros(3), np.zeros(3), WIDTH
    rows = rows[:: max(1, -(-len(rows) // SAMPLE))]
    points = scene.means[rows].astype(np.float64) @ frame.T
    opacities = scene.opacities[rows]
    scales = np.sort(scene.scales[rows].astype(np.float64), axis=1)
    area = scales[:, 1] * scales[:, 2] * opacities
    if len(rows) >= 1000 and (cell := cell_width(points)) > 0:
        kept = in_large_groups(points, opacities, cell)
        points, area = points[kept], area[kept]
        low, high = points.min(axis=0), points.max(axis=0)
    else:
        low, high = robust_bounds(points, opacities)
    holes = _holes(points, 2 * np.pi * area)
    area = np.minimum(area, np.percentile(area, 99))
    for cut in (0.0, 0.005, 0.01, 0.02, 0.05, MOST_CUT):
        if cut:
            low[:2], high[:2] = (corner[:2] for corner in robust_bounds(points, area, cut))
        side = max(float((high - low).max()), 1e-9)
        budget = float(np.cbrt(np.prod(np.maximum(high - low, side / COARSEST)) / MOST_VOXELS))
        if budget <= 1.4 * WIDTH:
            break
    step = max(min(side / FINEST, WIDTH), min(holes, side / COARSEST), budget)
    return low, high, step


def _holes(points: F64, area: F64) -> float:
    """How wide a voxel must be so that the holes between Gaussians close: 0 where Gaussians cover their surfaces."""
    places, first = np.unique(points, axis=0, return_index=True)
    if len(places) < 5:
        return 0.0
    queries = places[:: max(1, len(places) // 4000)]
    spacing = float(np.median(cKDTree(places).query(queries, k=5)[0][:, 4]))
    covered = float(np.median(area[first])) / max(spacing, 1e-12) ** 2
    return SPACING_VOXELS * spacing / max(1.0, covered)
