"""The normals that an encoder gets: a scene's own, or estimates."""

from __future__ import annotations

import numpy as np

from chorus_common.normals import facing_free_space, plane_normals, shortest_axes
from chorus_common.scene import F32, GaussianScene


def scene_normals(scene: GaussianScene, method: str) -> F32:
    """The scene's own normals, or estimates by `method` that face free space; [N, 3].

    Methods: "axis" = the Gaussian's shortest axis, "plane" = plane fit to the neighbours, "zeros" = rows of zeros.
    """
    if scene.normals is not None:
        return scene.normals
    if method == "zeros":
        return np.zeros((len(scene), 3), np.float32)
    estimate = shortest_axes(scene) if method == "axis" else plane_normals(scene.means)
    return facing_free_space(estimate, scene)
