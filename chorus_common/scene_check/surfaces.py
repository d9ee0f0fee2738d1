"""The scene as small surfaces, which is what orientation and size are read from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chorus_common.scene import GaussianScene, quats_to_rotations

F64 = NDArray[np.float64]

#: Surfaces that are looked at; larger scenes are sampled at even strides.
MOST_SURFACES = 60_000


@dataclass(frozen=True, eq=False)
class Surfaces:
    """Centres [S, 3], unit normals [S, 3] of unknown sign (the thinnest axis), and weights [S]: area times opacity."""

    points: F64
    normals: F64
    weights: F64


def scene_surfaces(scene: GaussianScene, left_out: NDArray[np.bool_] | None = None) -> Surfaces:
    """Surfaces of the opaque Gaussians of `scene` that are not in `left_out` [N].

    The area of a Gaussian is the product of its two longer standard deviations, cut at the 99th percentile so that a
    few huge Gaussians do not speak for the scene.
    """
    usable = scene.opacities >= 0.1
    if left_out is not None:
        usable &= ~left_out
    rows = np.flatnonzero(usable)
    rows = rows[:: max(1, -(-len(rows) // MOST_SURFACES))]
    scales = scene.scales[rows].astype(np.float64)
    thinnest = scales.argmin(axis=1)
    axes = quats_to_rotations(scene.quats[rows].astype(np.float64))  # [S, 3, 3], axes in columns
    normals = np.take_along_axis(axes, thinnest[:, None, None].repeat(3, axis=1), axis=2)[:, :, 0]
    ordered = np.sort(scales, axis=1)
    area = ordered[:, 1] * ordered[:, 2]
    if len(area):
        area = np.minimum(area, np.percentile(area, 99))
    points, opacities = scene.means[rows].astype(np.float64), scene.opacities[rows].astype(np.float64)
    return Surfaces(points, np.asarray(normals, dtype=np.float64), np.asarray(area * opacities, dtype=np.float64))


def weighted_quantiles(values: F64, weights: F64, shares: tuple[float, ...]) -> F64:
    """Values [len(shares)] below which these shares of the weight lie."""
    order = np.argsort(values, kind="stable")
    mass = np.cumsum(weights[order])
    places = np.searchsorted(mass, np.asarray(shares) * mass[-1])
    return np.asarray(values[order[np.minimum(places, len(order) - 1)]], dtype=np.float64)
