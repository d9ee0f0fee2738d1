"""Whether a scene is an interior: a good part of its box is free space with surfaces around it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chorus_common.scene_check.surfaces import Surfaces, weighted_quantiles

#: Voxels along the longest side of the robust box.
VOXELS = 32
#: Share of the box that is enclosed, and clearance in shares of the shortest side, from which a scene is an interior.
INTERIOR_SHARE, INTERIOR_CLEARANCE = 0.1, 0.12


def enclosed_share(surfaces: Surfaces) -> tuple[float, float]:
    """(share of the robust box that is free with matter on at least five of six sides, widest clearance there in shares
    of the box's shortest side).
    """
    low, high = (
        np.array([weighted_quantiles(surfaces.points[:, k], surfaces.weights, (q,))[0] for k in range(3)])
        for q in (0.005, 0.995)
    )
    side = float((high - low).max())
    if side <= 0:
        return 0.0, 0.0
    # Sparse scenes get wider voxels, so that their walls have no holes.
    per_wall = max(8, min(VOXELS, int(np.sqrt(len(surfaces.points) / 12))))
    step = side / per_wall
    low = low - step
    shape = np.ceil((high + step - low) / step).astype(int)
    cells = np.floor((surfaces.points - low) / step).astype(np.int64)
    inside = ((cells >= 0) & (cells < shape)).all(axis=1)
    solid = np.zeros(tuple(shape), dtype=bool)
    solid[tuple(cells[inside].T)] = True
    sides = np.zeros(solid.shape, dtype=np.int8)
    for axis in range(3):
        sides += np.logical_or.accumulate(solid, axis)
        sides += np.flip(np.logical_or.accumulate(np.flip(solid, axis), axis), axis)
    enclosed: NDArray[np.bool_] = ~solid & (sides >= 5)
    clearance = ndimage.distance_transform_edt(~solid, sampling=step)
    return float(enclosed.mean()), float(clearance[enclosed].max(initial=0.0)) / max(float((high - low).min()), step)


def is_interior(surfaces: Surfaces) -> bool:
    """Whether the scene surrounds the one who stands in it, as a room does and an object does not."""
    if len(surfaces.points) < 200:
        return False
    share, clearance = enclosed_share(surfaces)
    return share >= INTERIOR_SHARE and clearance >= INTERIOR_CLEARANCE
