"""Where a camera can stand: a voxel grid of opaque Gaussians, its free space, and points spread over it.

A scene is a room when a good part of its bounds is free space with matter around it on at least five of six sides (the
open side may be a missing ceiling) and wide enough to stand in; otherwise it is an object, to be looked at from
outside. Scenes are in metres (chorus_common/scene.py); a room scaled to a unit cube would be taken for an object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chorus_common.coincident import place_tree
from chorus_common.scene import GaussianScene, quats_to_rotations

F64 = NDArray[np.float64]

#: Voxels along the longest side of the bounds: the finest, and the coarsest that sparse scenes get so that their
#: walls have no holes.
FINEST, COARSEST = 64, 16
#: A voxel is this many times as wide as the typical distance to the fourth neighbour.
SPACING_VOXELS = 1.5
#: Opacity that makes a voxel solid; a lone faint floater does not.
SOLID_OPACITY = 0.5
#: Share of a room's bounds that is enclosed free space; solid objects have only pockets.
ROOM_SHARE = 0.1
#: Widest clearance that a room has at least, metres: a hollow box looks just like a room, only its size tells them
#: apart.
ROOM_CLEARANCE = 0.3
#: Distance from matter that cameras keep, metres; at most half of the widest clearance, for narrow rooms.
CLEARANCE = 0.35
#: Camera heights as shares of the room's height.
LOWEST, HIGHEST = 0.25, 0.9


@dataclass(frozen=True, eq=False)
class FreeSpace:
    """Voxels of `step` metres in an upright frame: world = origin + frame^T (voxel + 0.5) step.

    frame [3, 3]: rows are the upright axes (the last is up) in world coordinates; low [3]: the grid's corner in the
    upright frame. solid [X, Y, Z] bool; enclosed [X, Y, Z] bool: free with matter on at least five sides; clearance
    [X, Y, Z] m to the nearest matter.
    """

    frame: F64
    low: F64
    step: float
    solid: NDArray[np.bool_]
    enclosed: NDArray[np.bool_]
    clearance: F64

    @property
    def is_room(self) -> bool:
        widest = float(self.clearance[self.enclosed].max(initial=0.0))
        return float(self.enclosed.mean()) >= ROOM_SHARE and widest >= ROOM_CLEARANCE

    def camera_centres(self) -> F64:
        """World positions [P, 3] m of the free voxels where a camera can stand in a room."""
        heights = (np.arange(self.solid.shape[2]) + 0.5) / self.solid.shape[2]
        usable = self.enclosed & ((heights > LOWEST) & (heights < HIGHEST))[None, None, :]
        if not usable.any():
            usable = self.enclosed
        reach = min(CLEARANCE, 0.5 * float(self.clearance[usable].max(initial=0.0)))
        voxels = np.argwhere(usable & (self.clearance >= reach))
        return (self.low + (voxels + 0.5) * self.step) @ self.frame


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


def typical_spacing(points: F64, sample: int = 4000) -> float:
    """Median distance to the fourth neighbour, over evenly strided rows of the distinct places among points [N, 3]; 0
    for fewer than five places."""
    places, tree = place_tree(points)
    if len(places.first) < 5:
        return 0.0
    queries = points[places.first[:: max(1, len(places.first) // sample)]]
    return float(np.median(tree.query(queries, k=5)[0][:, 4]))


def find_free_space(scene: GaussianScene, up: tuple[float, float, float]) -> FreeSpace:
    """Voxelise the scene's opaque Gaussians, each at its centre and at one standard deviation along its two long
    axes."""
    frame = upright_frame(up)
    points = scene.means.astype(np.float64) @ frame.T
    low, high = robust_bounds(points, scene.opacities)
    side = max(float((high - low).max()), 1e-9)
    step = float(np.clip(SPACING_VOXELS * typical_spacing(points), side / FINEST, side / COARSEST))
    low = low - step  # one voxel of margin, so that walls lie inside the grid
    shape = np.ceil((high + step - low) / step).astype(int)
    axes = quats_to_rotations(scene.quats.astype(np.float64)) * scene.scales.astype(np.float64)[:, None, :]
    long_axes = np.argsort(-scene.scales, axis=1, kind="stable")[:, :2]
    offsets = [np.take_along_axis(axes, long_axes[:, None, k : k + 1], 2)[:, :, 0] @ frame.T for k in range(2)]
    mass = np.zeros(int(shape.prod()))
    for shift in (np.zeros_like(points), offsets[0], -offsets[0], offsets[1], -offsets[1]):
        voxel = np.floor((points + shift - low) / step)
        inside = ((voxel >= 0) & (voxel < shape)).all(1)
        flat = np.ravel_multi_index(tuple(voxel[inside].astype(np.int64).T), tuple(shape))
        mass += np.bincount(flat, scene.opacities[inside], minlength=len(mass))
    solid = (mass >= SOLID_OPACITY).reshape(shape)
    sides = np.zeros(solid.shape, np.int8)
    for axis in range(3):
        sides += np.logical_or.accumulate(solid, axis)
        sides += np.flip(np.logical_or.accumulate(np.flip(solid, axis), axis), axis)
    clearance = ndimage.distance_transform_edt(~solid, sampling=step) if solid.any() else np.full(solid.shape, np.inf)
    return FreeSpace(frame, low, step, solid, ~solid & (sides >= 5), clearance)


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
