"""Scenes without an interior: an object that was captured from all around, or open ground.

Both may lie on ground. On open ground what stands there is spread over all of it; around an object it is gathered in
the middle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chorus_common.viewpoints.geometry import robust_bounds
from chorus_common.viewpoints.occupancy import Occupancy

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Share of the columns that hold something, and extents in heights, from which a scene lies on ground.
GROUND_SHARE, FLATNESS = 0.5, 1.3
#: What stands on the ground is an object where its spread is below this share of the ground's spread.
GATHERED = 0.6
#: Height of the eyes above open ground, metres; at most this share of the ground's width.
EYE, EYE_SHARE = 1.6, 0.15


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Attributes:
    outdoors: open ground; otherwise an object.
    on_ground: whether there is ground that cameras must stay above.
    low, high [3]: what is to be looked at, in the grid's frame, metres.
    stands [P, 3]: world positions of eyes on open ground, metres; none around an object.
    clearance [P]: metres from each to the nearest matter.
    """

    outdoors: bool
    on_ground: bool
    low: F64
    high: F64
    stands: F64
    clearance: F64


def find_surroundings(grid: Occupancy) -> Surroundings:
    """What a scene that is no interior is."""
    voxels = np.argwhere(grid.solid)
    if len(voxels) == 0:
        voxels = np.argwhere(grid.area > 0)
    if len(voxels) == 0:
        voxels = np.zeros((1, 3), dtype=np.int64)
    points = grid.low + (voxels + 0.5) * grid.step
    weights = np.minimum(grid.area[tuple(voxels.T)], 4.0) + 1e-9
    low, high = robust_bounds(points, weights, 0.01)
    nothing = np.zeros((0, 3)), np.zeros(0)
    ground = _ground(grid, low, high)
    if ground is None:
        low, high = robust_bounds(points, weights)
        return Surroundings(False, False, low - grid.step / 2, high + grid.step / 2, *nothing)
    height = (voxels[:, 2] - ground[tuple(voxels[:, :2].T)]) * grid.step
    above = height > max(0.1 * float(high[2] - low[2]), 1.5 * grid.step)
    columns = np.argwhere(grid.solid.any(axis=2))
    spread = _spread(columns.astype(np.float64), np.ones(len(columns)))
    if above.any() and _spread(voxels[above, :2].astype(np.float64), weights[above]) < GATHERED * spread:
        low, high = robust_bounds(points[above], weights[above], 0.02)
        return Surroundings(False, True, low, high, *nothing)
    return Surroundings(True, True, low, high, *_stands(grid, ground, low, high))


def _spread(places: F64, weights: F64) -> float:
    """Root mean square distance of places [P, 2] from their weighted middle."""
    middle = np.average(places, axis=0, weights=weights)
    return float(np.sqrt(np.average(((places - middle) ** 2).sum(axis=1), weights=weights)))


def _ground(grid: Occupancy, low: F64, high: F64) -> I64 | None:
    """The voxel [X, Y] of the ground in every column; None where the scene does not lie on ground."""
    size = high - low
    if min(size[0], size[1]) < FLATNESS * size[2]:
        return None
    held = np.asarray(grid.solid.any(axis=2), dtype=np.bool_)
    corners = np.floor((np.stack([low, high])[:, :2] - grid.low[:2]) / grid.step).astype(np.int64)
    inside = held[corners[0, 0] : corners[1, 0] + 1, corners[0, 1] : corners[1, 1] + 1]
    if inside.size == 0 or inside.mean() < GROUND_SHARE:
        return None
    lowest = np.where(held, grid.solid.argmax(axis=2), -1)
    nearest = ndimage.distance_transform_edt(lowest < 0, return_distances=False, return_indices=True)
    return np.asarray(ndimage.median_filter(lowest[tuple(nearest)], size=5), dtype=np.int64)


def _stands(grid: Occupancy, ground: I64, low: F64, high: F64) -> tuple[F64, F64]:
    """World positions [P, 3] of eyes over open ground, and metres [P] to the nearest matter."""
    eye = min(EYE, EYE_SHARE * float(min(high[0] - low[0], high[1] - low[1])))
    above = max(1, round(eye / grid.step))
    # The grid may end below the eyes: what is above it is free.
    solid = np.pad(grid.solid, ((0, 0), (0, 0), (0, above + 2)))
    distance = ndimage.distance_transform_edt(~solid, sampling=grid.step)
    columns = np.indices(ground.shape)
    z = np.minimum(ground + above, solid.shape[2] - 1)
    clearance = distance[columns[0], columns[1], z]
    centres = grid.low[:2] + (np.moveaxis(columns, 0, -1) + 0.5) * grid.step
    inside = ((centres >= low[:2]) & (centres <= high[:2])).all(axis=-1)
    places = np.argwhere(inside & (clearance >= min(0.35, 0.4 * eye)))
    voxels = np.concatenate([places, z[tuple(places.T)][:, None]], axis=1)
    return grid.centres_of(voxels), clearance[tuple(places.T)]
