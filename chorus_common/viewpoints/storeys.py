"""The storeys of an interior: maps of where a person can stand in enclosed space.

1. Wherever a free column of standing height begins on something solid, rays tell whether its eye height is enclosed.
2. The heights where many such columns begin are floors; tables and beds lie less than a storey above one.
3. At eye height above each floor a map says where the space is free and enclosed; people stand where nothing but the
   floor is below them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chorus_common.viewpoints.enclosure import enclosure_at
from chorus_common.viewpoints.occupancy import Occupancy

I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: Metres a person needs to stand, height of the eyes, and their share of a low ceiling's height.
HEADROOM, EYE, EYE_SHARE = 1.5, 1.5, 0.6
#: Two floors are further apart than this, metres; what lies at most this far above a floor stands on it.
STOREY, ON_FLOOR = 1.8, 0.25
#: Furniture whose top may be taken for a floor is lower than this, and less than this away from its floor, metres.
TABLES, AROUND = 1.2, 2.0
#: A floor may slope or have steps of this height, metres.
UNEVEN = 0.4
#: Square metres of enclosed standing room from which a scene is an interior.
LEAST_AREA = 1.5
#: A ceiling decides where it covers half of what is walled, or this many square metres; a scan without one is an
#: interior where this share of its standing room is walled.
SURE_ROOF, WALLED_SHARE = 15.0, 0.15
#: Places that are probed for floors, and columns of a map that are.
MOST_PROBES, MOST_COLUMNS = 8_000, 40_000
#: Metres to matter that a camera keeps; half of the widest clearance where a room is narrower.
CLEARANCE = 0.35


@dataclass(frozen=True, eq=False)
class Storey:
    """Maps over the columns of a grid.

    Attributes:
        floor, ceiling [X, Y] i64: voxel above the floor, and of the ceiling (the grid's height where there is none).
        eye [X, Y] i64: voxel at eye height.
        free [X, Y] bool: at eye height; open [X, Y] bool: free and enclosed there.
        walkable [X, Y] bool: nothing but the floor below; standing [X, Y] bool: and clear of everything around.
        roofed: whether ceilings say what is enclosed.
        clearance [X, Y] f64: metres from the eye to the nearest matter.
    """

    floor: I64
    ceiling: I64
    eye: I64
    free: Mask
    open: Mask
    walkable: Mask
    standing: Mask
    roofed: bool
    clearance: NDArray[np.float64]


def find_storeys(grid: Occupancy) -> list[Storey]:
    """The storeys with enclosed standing room, lowest first; none where the scene is no interior."""
    solid = grid.solid
    height = solid.shape[2]
    index = np.arange(height, dtype=np.int16)
    last = np.maximum.accumulate(np.where(solid, index, np.int16(-1)), axis=2)  # the solid voxel at or below
    first = np.flip(np.minimum.accumulate(np.flip(np.where(solid, index, np.int16(height)), axis=2), axis=2), axis=2)
    begins = np.zeros_like(solid)
    begins[:, :, 1:] = solid[:, :, :-1] & ~solid[:, :, 1:]
    bottoms = np.argwhere(begins)
    top = first[tuple(bottoms.T)].astype(np.int64)
    room = np.where(top < height, (top - bottoms[:, 2]) * grid.step, np.inf)
    tall = room >= HEADROOM
    bottoms, room, top = bottoms[tall], room[tall], top[tall]
    stride = max(1, -(-len(bottoms) // MOST_PROBES))
    bottoms, room, top = bottoms[::stride], room[::stride], top[::stride]
    eyes = bottoms.copy()
    eyes[:, 2] = np.minimum(bottoms[:, 2] + _eye_voxels(room, grid.step), height - 1)
    found = enclosure_at(grid, eyes)
    per_place = stride * grid.step**2
    roofed, walled = float(found.roofed.sum()) * per_place, float(found.walled.sum()) * per_place
    has_roof = roofed >= max(LEAST_AREA, min(SURE_ROOF, 0.5 * walled))
    if not has_roof and walled < max(LEAST_AREA, WALLED_SHARE * len(bottoms) * per_place):
        return []
    good = found.roofed if has_roof else found.partly_walled
    ceilings = room[good & (top < height)]
    typical = float(np.median(ceilings)) if has_roof and len(ceilings) else np.inf
    storeys = []
    for level in _floors(bottoms[good], grid.solid.shape[:2], per_place, grid.step):
        storey = _storey(grid, last, first, level, int(_eye_voxels(np.array([typical]), grid.step)[0]), has_roof)
        if float(storey.standing.sum()) * grid.step**2 > 0:
            storeys.append(storey)
    return storeys


def _eye_voxels(room: NDArray[np.float64], step: float) -> I64:
    """Voxels from the floor to the eyes under ceilings `room` metres high."""
    return np.maximum(np.rint(np.minimum(EYE, EYE_SHARE * room) / step), 1).astype(np.int64)


def _floors(bottoms: I64, shape: tuple[int, ...], area_each: float, step: float) -> list[int]:
    """Levels of floors, in voxels and lowest first, from the voxels [B, 3] where enclosed free columns begin; one of
    them stands for `area_each` square metres.
    """
    spread = max(1, round(0.15 / step))
    apart = round(STOREY / step)
    found: list[int] = []
    least = 0.0
    while len(bottoms):
        counts = np.bincount(bottoms[:, 2]).astype(np.float64)
        counts = ndimage.convolve1d(counts, np.ones(2 * spread + 1), mode="constant")
        peak = int(counts.argmax())
        least = max(least, 0.1 * counts[peak], LEAST_AREA / area_each)
        if found and counts[peak] < least:
            break
        # A room full of tables has its floor below its tables.
        lowest = max(0, peak - round(TABLES / step))
        level = lowest + int(np.flatnonzero(counts[lowest : peak + 1] >= 0.3 * counts[peak])[0])
        level += int(counts[level : level + spread + 1].argmax())
        found.append(level)
        # What lies around this floor and less than a storey away from it, such as a bed, is no other floor.
        near_level = np.abs(bottoms[:, 2] - level)
        away = np.ones(shape, dtype=np.bool_)
        away[tuple(bottoms[near_level <= spread, :2].T)] = False
        distance = ndimage.distance_transform_edt(away, sampling=step)
        bottoms = bottoms[(near_level >= apart) | (distance[tuple(bottoms[:, :2].T)] > AROUND)]
    return sorted(set(found))


def _storey(
    grid: Occupancy, last: NDArray[np.int16], first: NDArray[np.int16], level: int, eye_above: int, has_roof: bool
) -> Storey:
    """Maps of the storey whose floor is around voxel `level`."""
    step, height = grid.step, grid.solid.shape[2]
    uneven, headroom = max(1, round(UNEVEN / step)), max(1, round(HEADROOM / step))
    # The floor is the lowest beginning of a tall free column near the level; holes take the level of the nearest one.
    floor = np.full(grid.solid.shape[:2], -1, dtype=np.int64)
    for z in range(min(level + uneven, height - 1), max(level - uneven, 1) - 1, -1):
        tall = first[:, :, z] >= min(z + headroom, height)
        floor[grid.solid[:, :, z - 1] & tall] = z
    if (floor < 0).all():
        floor[:] = level
    nearest = ndimage.distance_transform_edt(floor < 0, return_distances=False, return_indices=True)
    floor = ndimage.median_filter(floor[tuple(nearest)], size=5)
    eye = np.minimum(floor + eye_above, height - 1)
    columns = np.indices(floor.shape)
    at_eye = (columns[0], columns[1], eye)
    free = ~grid.solid[at_eye]
    ceiling = first[at_eye].astype(np.int64)
    usable = free & (ceiling < height) if has_roof else free
    places = np.argwhere(usable)
    enclosed = np.zeros_like(free)
    stride = 1 if len(places) <= MOST_COLUMNS else 2
    probed = places[(places % stride == 0).all(axis=1)]
    voxels = np.concatenate([probed, eye[tuple(probed.T)][:, None]], axis=1)
    found = enclosure_at(grid, voxels)
    good = found.roofed if has_roof else found.partly_walled
    enclosed[tuple(probed[good].T)] = True
    if stride > 1:
        enclosed = enclosed[::2, ::2].repeat(2, axis=0).repeat(2, axis=1)[: free.shape[0], : free.shape[1]]
    gaps = max(1, round(0.2 / step))
    closed = ndimage.binary_closing(np.pad(enclosed, gaps), iterations=gaps)[gaps:-gaps, gaps:-gaps]
    enclosed = closed & usable
    clearance = _clearance(grid, eye)
    below = last[at_eye].astype(np.int64) + 1
    upright = (below - floor) * step <= ON_FLOOR
    reach = min(CLEARANCE, 0.5 * float(clearance[enclosed].max(initial=0.0)))
    standing = enclosed & upright & (clearance >= reach)
    walkable = enclosed & upright & (clearance >= 0.5 * reach)
    return Storey(floor, ceiling, eye, free, enclosed, walkable, standing, has_roof, clearance)


def _clearance(grid: Occupancy, eye: I64) -> NDArray[np.float64]:
    """Metres [X, Y] from the eye height of every column to the nearest matter, at most about two metres above or below
    it.
    """
    margin = max(1, round(1.0 / grid.step))
    low, high = max(0, int(eye.min()) - margin), min(grid.solid.shape[2], int(eye.max()) + margin + 1)
    slab = grid.solid[:, :, low:high]
    if not slab.any():
        return np.full(eye.shape, np.inf)
    distance = ndimage.distance_transform_edt(~slab, sampling=grid.step)
    columns = np.indices(eye.shape)
    return np.asarray(distance[columns[0], columns[1], eye - low], dtype=np.float64)
