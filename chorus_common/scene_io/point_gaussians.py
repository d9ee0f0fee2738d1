"""Coloured points become Gaussians: one flat disc per point, as large as the gap to its neighbours.

Size: the mean distance to the three nearest places where other points lie, as 3DGS initialises its Gaussians from SfM
points (graphdeco-inria/gaussian-splatting scene/gaussian_model.py, create_from_pcd, which takes the root mean square
and starts at opacity 0.1 because training follows). Here no training follows, so opacity starts high.
`PointCloudOptions(max_scale=0.02, opacity=0.8, flatness=1.0)` gives the isotropic variant that rasteriser comparisons
use.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chorus_common.coincident import Places, place_tree
from chorus_common.normals import facing_free_space, least_spread
from chorus_common.runtime.config import Config
from chorus_common.runtime.errors import SceneError
from chorus_common.scene import GaussianScene

F32 = NDArray[np.float32]

#: Rows per block of the neighbour statistics: bounds the memory of [block, k, 3] tables.
_BLOCK = 65536


class PointCloudOptions(Config):
    """How a point becomes a Gaussian."""

    #: Neighbours whose mean distance is the disc's radius (standard deviation); points that coincide are one.
    neighbours: int = Field(default=3, ge=1, le=32)
    #: Upper bound of the radius in metres; None leaves only `outlier_factor`.
    max_scale: float | None = Field(default=None, gt=0)
    #: Lower bound of the radius in metres (create_from_pcd: sqrt(1e-7)).
    min_scale: float = Field(default=3.2e-4, gt=0)
    #: Radii above this many medians are capped there: a lone stray point must not cover the scene.
    outlier_factor: float = Field(default=4.0, ge=1)
    #: Thickness along the normal over radius; 1 = spheres.
    flatness: float = Field(default=0.1, gt=0, le=1)
    #: Opacity of every Gaussian.
    opacity: float = Field(default=0.9, gt=0, lt=1)
    #: Neighbours for normals by PCA where the cloud brings none.
    normal_neighbours: int = Field(default=16, ge=3, le=128)


def points_to_gaussians(
    points: NDArray[Any],
    colors: NDArray[Any],
    normals: NDArray[Any] | None = None,
    options: PointCloudOptions | None = None,
    **extra: Any,
) -> GaussianScene:
    """Gaussians of a coloured point cloud, one per point, in its order.

    Args:
        points: [N, 3] metres.
        colors: [N, 3]; integers run to their type's 255 or 65535, floats to 1.
        normals: [N, 3] unit vectors; estimated where None, and facing free space.
        options: sizes and opacity.
        extra: further columns of GaussianScene (labels, instances, parts, name, label_space).

    Returns:
        Scene whose quaternions turn the local z axis onto the normal; its scales are (r, r, flatness * r).
    """
    options = options or PointCloudOptions()
    if len(points) == 0:
        raise SceneError(f"point cloud {extra.get('name', '')}: holds no points")
    # neighbour distances far from the origin lose digits in f32, and the tree works in f64 anyway
    xyz = np.ascontiguousarray(points, dtype=np.float64)
    spacing, estimated, places = _spacing_and_normals(xyz, options, normals is None)
    cap = options.outlier_factor * float(np.median(spacing))
    distance = spacing[places.of]
    if options.max_scale is not None:
        cap = min(cap, options.max_scale)
    radius = np.maximum(np.minimum(distance, cap), options.min_scale)
    unit = np.asarray(normals if estimated is None else estimated[places.of], dtype=np.float32)
    scene = GaussianScene(
        means=np.asarray(points, np.float32),
        quats=quats_from_normals(unit),
        scales=np.stack([radius, radius, radius * options.flatness], axis=1).astype(np.float32),  # [N, 3]
        opacities=np.full(len(xyz), options.opacity, np.float32),
        colors=unit_colors(colors),
        normals=unit,
        **extra,
    )
    if estimated is None:
        return scene
    unit = facing_free_space(unit, scene)  # a disc is the same on both sides
    return replace(scene, normals=unit, quats=quats_from_normals(unit))


def _spacing_and_normals(
    xyz: NDArray[np.float64], options: PointCloudOptions, normals: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, Places]:
    """Of every distinct place among the points `xyz` [N, 3]: mean distance [P] to its nearest other places, and the
    normal [P, 3] of its neighbourhood where `normals`.
    """
    places, tree = place_tree(xyz)
    where = xyz[places.first]
    spacing = np.empty(len(where))
    estimated = np.empty((len(where), 3)) if normals else None
    k = options.neighbours if estimated is None else max(options.neighbours, options.normal_neighbours)
    k = min(k + 1, len(where))  # the place itself comes first
    for start in range(0, len(where), _BLOCK):
        # in the tree's own order: neighbours in a row visit the same leaves, which halves the time
        block = tree.indices[start : start + _BLOCK]
        near, ids = tree.query(where[block], k=k)
        near, ids = near.reshape(-1, k), ids.reshape(-1, k)
        spacing[block] = near[:, 1 : options.neighbours + 1].mean(1) if k > 1 else 0.0
        if estimated is not None:
            estimated[block] = least_spread(where[ids])
    return spacing, estimated, places


def unit_colors(colors: NDArray[Any]) -> F32:
    """Colours [N, 3] in [0, 1]: integers by their type (16 bits over 65535, others over 255); floats as they are.

    Floats that exceed 1 are colours of 0 to 255 which someone converted without scaling (numpy.loadtxt of "x y z r g
    b").
    """
    colors = np.asarray(colors)
    out = colors.astype(np.float32)
    if colors.dtype.kind in "iu":
        top = 65535.0 if colors.dtype == np.uint16 and out.max(initial=0) > 255 else 255.0
    else:
        top = 255.0 if out.max(initial=0) > 1.001 else 1.0
    if out.min(initial=0) < -1e-6 or out.max(initial=0) > top * 1.001:
        raise SceneError(f"colours run from {out.min():g} to {out.max():g}, neither 0 to 1 nor 0 to {top:g}")
    return np.clip(out / np.float32(top), 0.0, 1.0)


def quats_from_normals(normals: NDArray[np.floating]) -> F32:
    """Shortest rotations [N, 4] (w, x, y, z) that turn the z axis onto unit `normals` [N, 3]; half a turn about x for
    -z."""
    n = np.asarray(normals, dtype=np.float64)
    quats = np.stack([1 + n[:, 2], -n[:, 1], n[:, 0], np.zeros(len(n))], axis=1)  # [N, 4]: (1 + z.n, z x n)
    quats[n[:, 2] < -1 + 1e-9] = (0.0, 1.0, 0.0, 0.0)
    return (quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32)
