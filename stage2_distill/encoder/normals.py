"""Normals where a scene brings none: the shortest axis of each Gaussian, or the least direction of a point's
neighbourhood; oriented inwards.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chorus_common.bounds import bounds
from chorus_common.coincident import place_tree
from chorus_common.scene import F32, GaussianScene, quats_to_rotations

#: neighbours of a point for the plane fit
NEIGHBOURS = 16
_ROWS = 1 << 17


def shortest_axes(scene: GaussianScene) -> F32:
    """Local axis with the smallest scale of every Gaussian, in world coordinates; [N, 3] unit, sign undefined."""
    rotations = quats_to_rotations(scene.quats)  # columns are the local axes
    return np.take_along_axis(rotations, scene.scales.argmin(1)[:, None, None], axis=2)[:, :, 0].astype(np.float32)


def plane_normals(points: NDArray[np.floating], neighbours: int = NEIGHBOURS) -> F32:
    """Direction of least variance of each point's nearest neighbours (itself included); [N, 3] unit, sign undefined.

    Points that coincide count once: a hundred copies of a point lie in no plane.
    """
    places, tree = place_tree(points)
    where = np.asarray(points, dtype=np.float64)[places.first]
    out = np.empty((len(where), 3), dtype=np.float32)
    for start in range(0, len(where), _ROWS):
        part = where[start : start + _ROWS]
        _, index = tree.query(part, k=min(neighbours, len(where)))
        near = where[index.reshape(len(part), -1)]  # [n, k, 3]
        near -= near.mean(1, keepdims=True)
        _, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", near, near))
        out[start : start + _ROWS] = vectors[:, :, 0]
    return out[places.of]


def facing(normals: F32, points: NDArray[np.floating], viewpoint: NDArray[np.floating]) -> F32:
    """`normals` [N, 3] with signs such that they point towards `viewpoint` [3]."""
    away = np.einsum("ni,ni->n", normals, viewpoint - points) < 0
    return np.where(away[:, None], -normals, normals).astype(np.float32)


def scene_normals(scene: GaussianScene, method: str) -> F32:
    """The scene's own normals, or estimates by `method` ("axis" or "plane") that face the middle of the scene's box;
    [N, 3]. Method "zeros": rows of zeros.

    Facing the middle is right for rooms seen from inside, which is what indoor scans are; an object seen from
    outside gets inward normals, all of one sign.
    """
    if scene.normals is not None:
        return scene.normals
    if method == "zeros":
        return np.zeros((len(scene), 3), np.float32)
    estimate = shortest_axes(scene) if method == "axis" else plane_normals(scene.means)
    return facing(estimate, scene.means, np.add(*bounds(scene.means)) / 2)
