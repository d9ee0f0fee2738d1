"""Turning a scene: centres, orientations and normals together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from chorus_common.bounds import bounds
from chorus_common.harmonics import turned_harmonics
from chorus_common.scene import GaussianScene, quat_product

F64 = NDArray[np.float64]


def rotation_about(axis: str, angle: float) -> F64:
    """Rotation matrix [3, 3] about "x", "y" or "z" by `angle` radians, counter-clockwise seen from the axis' tip."""
    a = "xyz".index(axis)
    b, c = (a + 1) % 3, (a + 2) % 3
    matrix = np.eye(3)
    matrix[b, b] = matrix[c, c] = np.cos(angle)
    matrix[b, c], matrix[c, b] = -np.sin(angle), np.sin(angle)
    return matrix


def rotate(scene: GaussianScene, rotation: NDArray[np.floating], center: NDArray[np.floating]) -> GaussianScene:
    """Turn the whole scene by `rotation` [3, 3] about `center` [3]: centres, quaternions (left product), normals and
    harmonics.
    """
    turned = (scene.means - center) @ rotation.T + center
    normals = None if scene.normals is None else scene.normals @ rotation.T
    quats = quat_product(quat_from_rotation(rotation), scene.quats)
    harmonics = None if scene.harmonics is None else turned_harmonics(scene.harmonics, rotation)
    return replace(scene, means=turned, quats=quats, normals=normals, harmonics=harmonics)


def middle(scene: GaussianScene) -> F64:
    """The middle [3] of the box around the centres."""
    low, high = bounds(scene.means)
    return (low.astype(np.float64) + high) / 2


def quat_from_rotation(rotation: NDArray[np.floating]) -> F64:
    """Unit quaternion [4] (w, x, y, z) of a rotation matrix [3, 3], w >= 0 (Shepperd's method: divides by the largest
    component).
    """
    m = np.asarray(rotation, dtype=np.float64)
    t = np.array([np.trace(m), m[0, 0], m[1, 1], m[2, 2]])
    k = int(np.argmax(t))
    if k == 0:
        q = np.array([1 + t[0], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]])
    else:
        a, b, c = k - 1, k % 3, (k + 1) % 3
        q = np.empty(4)
        q[0] = m[c, b] - m[b, c]
        q[1 + a] = 1 + m[a, a] - m[b, b] - m[c, c]
        q[1 + b], q[1 + c] = m[b, a] + m[a, b], m[c, a] + m[a, c]
    q /= np.linalg.norm(q)
    return -q if q[0] < 0 else q
