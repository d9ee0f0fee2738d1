"""Which way is up in a scene: from its cameras where it brings them, otherwise from its surfaces.

People hold cameras upright, so the mean of the cameras' own up axes is the best witness. Without cameras, six axis
directions and the scene's dominant normals are compared by what an indoor scene looks like along the vertical (the
weights are ours, fitted on synthetic rooms, closed and cut open; see docs/guide/scene-check.md):

- it is shorter along the vertical than across;
- floor and ceiling are flat and lie at the ends of the vertical;
- furniture stands on the floor: between the ends, the lower half holds more surface than the upper;
- a capture without a ceiling has its one flat end below.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import CameraSet
from chorus_common.scene_check.surfaces import Surfaces, weighted_quantiles

F64 = NDArray[np.float64]
UP_Z = np.array([0.0, 0.0, 1.0])

#: Weights of (short, flat, ends, low surface, low flat surface, floor without ceiling), see `_visibility`.
WEIGHTS = np.array([1.5, 0.3, 1.5, 2.2, 1.6, 1.4])
#: Cosine from which a surface is perpendicular to a direction (20 degrees).
FLAT = 0.94
#: Cameras whose mean up axis is shorter than this do not agree on one.
AGREEMENT = 0.4
#: Degrees within which the floor's normal is looked for around the cameras' mean up axis.
CAMERA_DEGREES = 30.0
#: Degrees within which an axis of the file is taken for the direction found.
SNAP_DEGREES = 3.0


@dataclass(frozen=True, eq=False)
class UpEstimate:
    """A direction and how sure it is.

    up: unit vector [3] in the file's frame.
    confidence: 0 to 1; shares of all directions that were compared add up to 1.
    of_z: the same for the file's own +z axis, 0 where that is the same vertical, a little tilted.
    source: "cameras" or "surfaces".
    """

    up: F64
    confidence: float
    of_z: float
    source: str


def estimate_up(surfaces: Surfaces, cameras: CameraSet | None = None) -> UpEstimate | None:
    """The upward direction; None where the scene gives no sign of one (too few surfaces, a lone object)."""
    if cameras is not None and len(cameras) >= 3:
        mean = -cameras.viewmats[:, 1, :3].astype(np.float64).mean(axis=0)
        length = float(np.linalg.norm(mean))
        if length >= AGREEMENT:
            up = _nearest_floor(surfaces, mean / length)
            return UpEstimate(up, min(1.0, length + 0.2), 0.0, "cameras")
    if len(surfaces.points) < 200 or surfaces.weights.sum() <= 0:
        return None
    directions = _candidates(surfaces)
    rows = np.array([_visibility(surfaces, d) for d in directions])
    rows[:, 0] -= rows[:6, 0].mean()  # relative to the mean of the three axes of the file
    score = rows @ WEIGHTS
    # A tilted direction is the same vertical as the axis next to it: they do not compete, and it is the better one.
    beside = (np.abs(directions[:6] @ directions[6:].T) > np.cos(np.radians(25))).any(axis=1)
    score[:6] -= 2.0 * beside
    share = np.exp(score - score.max())
    axis = np.abs(directions @ directions.T) * np.sign(directions @ directions.T) > np.cos(np.radians(25))
    best = int(score.argmax())
    rivals = ~axis[best]
    total = share[best] + _distinct_sum(directions, share, rivals)
    up = _refine(surfaces, directions[best])
    of_z = 0.0 if axis[best][4] else float(share[4] / total)
    return UpEstimate(_snap(up, SNAP_DEGREES), float(share[best] / total), of_z, "surfaces")


def _nearest_floor(surfaces: Surfaces, up: F64) -> F64:
    """The direction near the cameras' mean up axis that most surfaces are perpendicular to: people look down more than
    up, and not all round, so that mean is a few degrees off.
    """
    if len(surfaces.points) < 200:
        return _snap(up, CAMERA_DEGREES)
    directions, mass = _normal_mass(surfaces)
    directions, mass = np.concatenate([directions, -directions]), np.concatenate([mass, mass])
    near = directions @ up > np.cos(np.radians(CAMERA_DEGREES))
    return _snap(_refine(surfaces, directions[near][mass[near].argmax()]), SNAP_DEGREES)


def _normal_mass(surfaces: Surfaces) -> tuple[F64, F64]:
    """400 directions [400, 3] of a half sphere, and the weight [400] of the surfaces whose normals lie within 10
    degrees of each.
    """
    k = np.arange(400)
    z = (k + 0.5) / 400
    angle = k * np.pi * (3 - np.sqrt(5))
    sphere = np.stack([np.sqrt(1 - z * z) * np.cos(angle), np.sqrt(1 - z * z) * np.sin(angle), z], axis=1)
    stride = max(1, len(surfaces.points) // 8000)
    near = np.abs(sphere @ surfaces.normals[::stride].T) > np.cos(np.radians(10))
    return sphere, near @ surfaces.weights[::stride]


def _candidates(surfaces: Surfaces) -> F64:
    """Directions [D, 3]: the six axes of the file, then up to three dominant normals with both signs.

    Normals are counted in 15-degree neighbourhoods of the directions of a sphere; the second and third are the densest
    ones at right angles to those before.
    """
    axes = np.concatenate([sign * np.eye(3)[k : k + 1] for k in range(3) for sign in (1.0, -1.0)])
    sphere, mass = _normal_mass(surfaces)
    found: list[F64] = []
    for _ in range(3):
        free = np.ones(len(sphere), dtype=bool)
        for other in found:
            free &= np.abs(sphere @ other) < 0.35
        if not free.any():
            break
        found.append(_refine(surfaces, sphere[np.flatnonzero(free)[mass[free].argmax()]]))
    far = [d for d in found if np.abs(axes @ d).max() < np.cos(np.radians(SNAP_DEGREES))]
    return np.concatenate([axes, *[np.stack([d, -d]) for d in far]])


def _visibility(surfaces: Surfaces, direction: F64) -> F64:
    """[6] for one direction, each larger for a better vertical."""
    height = surfaces.points @ direction
    low, high = weighted_quantiles(height, surfaces.weights, (0.01, 0.99))
    extent = max(float(high - low), 1e-12)
    place = (height - low) / extent
    flat = np.abs(surfaces.normals @ direction) > FLAT
    weight = surfaces.weights / surfaces.weights.sum()
    bottom, top = weight[(place < 0.04) & flat].sum(), weight[(place > 0.96) & flat].sum()
    between = (place > 0.06) & (place < 0.94)
    return np.array([
        -np.log(extent), 4 * weight[flat].sum(), 8 * (bottom + top), 8 * _lowness(place, weight * between),
        2 * _lowness(place, weight * (between & flat)), 8 * (bottom - top),
    ])  # fmt: skip


def _lowness(place: F64, weight: F64) -> float:
    """How far below the middle the weight lies, in extents; 0 without weight."""
    total = weight.sum()
    return 0.5 - float((weight * place).sum() / total) if total > 1e-9 else 0.0


def _distinct_sum(directions: F64, share: F64, rivals: NDArray[np.bool_]) -> float:
    """Sum of the shares of rival directions, each neighbourhood of 25 degrees counted once by its best."""
    total, open_rows = 0.0, set(np.flatnonzero(rivals).tolist())
    while open_rows:
        best = max(open_rows, key=lambda row: share[row])
        total += float(share[best])
        near = directions @ directions[best] > np.cos(np.radians(25))
        open_rows -= set(np.flatnonzero(near).tolist())
    return total


def _refine(surfaces: Surfaces, direction: F64) -> F64:
    """The mean normal [3] of the surfaces within 12, then 6 degrees of `direction`."""
    for degrees in (12.0, 6.0, 6.0):
        cosine = surfaces.normals @ direction
        near = np.abs(cosine) > np.cos(np.radians(degrees))
        total = (surfaces.normals[near] * (np.sign(cosine[near]) * surfaces.weights[near])[:, None]).sum(axis=0)
        if np.linalg.norm(total) > 0:
            direction = total / np.linalg.norm(total)
    return direction


def _snap(up: F64, degrees: float) -> F64:
    """The axis of the file within `degrees` of `up`, otherwise `up`."""
    axis = np.zeros(3)
    k = int(np.abs(up).argmax())
    axis[k] = np.sign(up[k])
    return axis if float(up @ axis) > np.cos(np.radians(degrees)) else up


def rotation_to_z(up: F64) -> F64:
    """Rotation matrix [3, 3] that turns `up` into +z; a signed permutation where `up` is an axis, so that nothing is
    rounded.
    """
    up = np.asarray(up, dtype=np.float64)
    k = int(np.abs(up).argmax())
    if abs(up[k]) > 1 - 1e-14:
        sign = np.sign(up[k])
        rotation = np.zeros((3, 3))
        rotation[2, k] = sign
        a, b = [i for i in range(3) if i != k]
        rotation[0, a], rotation[1, b] = 1.0, 1.0
        if np.linalg.det(rotation) < 0:
            rotation[1, b] = -1.0
        return rotation
    axis = np.cross(up, UP_Z)
    sine, cosine = float(np.linalg.norm(axis)), float(up[2])
    axis /= sine
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + sine * cross + (1 - cosine) * (cross @ cross)
