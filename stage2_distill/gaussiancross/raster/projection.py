"""The visible Gaussians as the differentiable rasteriser's splats, and gradients back through the projection.

The projection itself is `chorus_common.rasterize.projection`; its rule and constants stand in
`chorus_common.rasterize.rules`. World to camera is any affine map: that is how a camera follows a scene into its cuboid
(cuboid.py).

Everything is computed in float64 and rounded to the arrays' type at the end.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chorus_common.rasterize.projection import (
    camera_point,
    clamp_bounds,
    project_gaussian,
    projected_axes,
    rotation_matrix,
)
from chorus_common.rasterize.rules import EPS2D, MIN_ALPHA

Floats = NDArray[np.floating]

#: Columns of a splat. conic = (XX, XY, YY) of the inverse covariance; CUT is the sigma at which alpha falls to 1/255.
#: The exponent is ROW (dx + SLOPE dy)^2 + COLUMN dy^2, a sum of squares: the plain form cancels for thin splats.
MEAN_X, MEAN_Y, COLUMN, CUT, SLOPE, ROW, OPACITY, DEPTH, XX, XY, YY, EXTENT_X, EXTENT_Y = range(13)
SPLAT_WIDTH = 13
#: Columns of a splat's gradient; further columns belong to its values.
GRAD_MEAN_X, GRAD_MEAN_Y, GRAD_XX, GRAD_XY, GRAD_YY, GRAD_OPACITY, GRAD_DEPTH = range(7)
GRAD_WIDTH = 7


@njit(nogil=True, cache=True, error_model="numpy")
def project(
    means: Floats, quats: Floats, scales: Floats, opacities: Floats, viewmat: Floats, intrinsics: Floats,
    width: int, height: int, splats: Floats, ids: NDArray[np.int64],
) -> int:  # fmt: skip
    """Write the visible Gaussians, in index order, to splats [N, 13] and ids [N]; returns how many they are.

    Args:
        means, scales [N, 3]; quats [N, 4] wxyz of any length; opacities [N]; viewmat [4, 4] f64, intrinsics [3, 3] f64.
    """
    bounds = clamp_bounds(intrinsics, width, height)
    count = 0
    for i in range(len(means)):
        visible, mean_x, mean_y, z, opacity, variance_x, variance_y, covariance, extent_x, extent_y = project_gaussian(
            means[i], quats[i], scales[i], float(opacities[i]), viewmat, intrinsics, bounds, width, height,
            EPS2D, False,
        )  # fmt: skip
        if not visible:
            continue
        det = variance_x * variance_y - covariance * covariance
        row = splats[count]
        row[MEAN_X], row[MEAN_Y] = mean_x, mean_y
        row[XX], row[XY], row[YY] = variance_y / det, -covariance / det, variance_x / det
        row[ROW], row[SLOPE], row[COLUMN] = 0.5 * variance_y / det, -covariance / variance_y, 0.5 / variance_y
        row[OPACITY], row[DEPTH] = opacity, z
        row[CUT] = math.log(opacity / MIN_ALPHA) + 1e-3  # a bound; the blending rule itself decides
        row[EXTENT_X], row[EXTENT_Y] = math.ceil(extent_x), math.ceil(extent_y)
        ids[count] = i
        count += 1
    return count


@njit(nogil=True, cache=True, error_model="numpy")
def project_backward(
    means: Floats, quats: Floats, scales: Floats, viewmat: Floats, intrinsics: Floats, width: int, height: int,
    splats: Floats, ids: NDArray[np.int64], grads: Floats,
    grad_means: Floats, grad_quats: Floats, grad_scales: Floats, grad_opacities: Floats,
) -> None:  # fmt: skip
    """Gradients of the Gaussians from those of their splats; rows that are not visible stay as they are (zero).

    Args:
        splats [M, 13], ids [M]: from `project`; grads [M, 7 + ...]: columns GRAD_*.
        grad_means, grad_scales [N, 3], grad_quats [N, 4], grad_opacities [N]: outputs.
    """
    fx, fy = intrinsics[0, 0], intrinsics[1, 1]
    bounds = clamp_bounds(intrinsics, width, height)
    rotation = np.empty((3, 3))
    flat = np.empty((2, 3))  # J A
    axes = np.empty((3, 3))  # R diag(s)
    plane = np.empty((2, 3))  # P
    grad_plane = np.empty((2, 3))
    grad_flat = np.empty((2, 3))
    g_rot = np.empty((3, 3))
    for m in range(len(ids)):
        i = ids[m]
        g = grads[m]
        camera_x, camera_y, z = camera_point(viewmat, means[i])
        x, y = camera_x / z, camera_y / z
        tx, ty = min(bounds[1], max(bounds[0], x)), min(bounds[3], max(bounds[2], y))
        for at, value in enumerate(projected_axes(viewmat, fx, fy, tx, ty, z)):
            flat[at // 3, at % 3] = value
        for at, value in enumerate(rotation_matrix(quats[i])):
            rotation[at // 3, at % 3] = value
        for r in range(3):
            for k in range(3):
                axes[r, k] = rotation[r, k] * scales[i, k]
        for a in range(2):
            for k in range(3):
                plane[a, k] = flat[a, 0] * axes[0, k] + flat[a, 1] * axes[1, k] + flat[a, 2] * axes[2, k]
        # conic = cov^-1: d cov = -conic G conic with G the symmetric gradient of the conic
        xx, xy, yy = float(splats[m, XX]), float(splats[m, XY]), float(splats[m, YY])
        gxx, gxy, gyy = float(g[GRAD_XX]), 0.5 * float(g[GRAD_XY]), float(g[GRAD_YY])
        p, q = gxx * xx + gxy * xy, gxx * xy + gxy * yy
        r0, t0 = gxy * xx + gyy * xy, gxy * xy + gyy * yy
        c00, c01, c11 = -(xx * p + xy * r0), -(xx * q + xy * t0), -(xy * q + yy * t0)
        for k in range(3):
            grad_plane[0, k] = 2 * (c00 * plane[0, k] + c01 * plane[1, k])
            grad_plane[1, k] = 2 * (c01 * plane[0, k] + c11 * plane[1, k])
        for a in range(2):
            for r in range(3):
                grad_flat[a, r] = (
                    grad_plane[a, 0] * axes[r, 0] + grad_plane[a, 1] * axes[r, 1] + grad_plane[a, 2] * axes[r, 2]
                )
        for k in range(3):
            total = 0.0
            for r in range(3):
                value = flat[0, r] * grad_plane[0, k] + flat[1, r] * grad_plane[1, k]
                total += value * rotation[r, k]
                g_rot[r, k] = value * scales[i, k]
            grad_scales[i, k] = total
        _rotation_backward(quats[i], g_rot, grad_quats[i])
        # through J A
        j00 = grad_flat[0, 0] * viewmat[0, 0] + grad_flat[0, 1] * viewmat[0, 1] + grad_flat[0, 2] * viewmat[0, 2]
        j02 = grad_flat[0, 0] * viewmat[2, 0] + grad_flat[0, 1] * viewmat[2, 1] + grad_flat[0, 2] * viewmat[2, 2]
        j11 = grad_flat[1, 0] * viewmat[1, 0] + grad_flat[1, 1] * viewmat[1, 1] + grad_flat[1, 2] * viewmat[1, 2]
        j12 = grad_flat[1, 0] * viewmat[2, 0] + grad_flat[1, 1] * viewmat[2, 1] + grad_flat[1, 2] * viewmat[2, 2]
        gz = float(g[GRAD_DEPTH])
        gz += (-j00 * fx + j02 * fx * tx - j11 * fy + j12 * fy * ty) / (z * z)
        # a clamped coordinate has no gradient
        g_tx = -j02 * fx / z if tx == x else 0.0
        g_ty = -j12 * fy / z if ty == y else 0.0
        gx, gy = g_tx / z, g_ty / z
        gz -= (g_tx * tx + g_ty * ty) / z
        # mean2d
        gx += g[GRAD_MEAN_X] * fx / z
        gy += g[GRAD_MEAN_Y] * fy / z
        gz -= (g[GRAD_MEAN_X] * fx * camera_x + g[GRAD_MEAN_Y] * fy * camera_y) / (z * z)
        for k in range(3):
            grad_means[i, k] = viewmat[0, k] * gx + viewmat[1, k] * gy + viewmat[2, k] * gz
        grad_opacities[i] = g[GRAD_OPACITY]


@njit(nogil=True, cache=True, error_model="numpy")
def _rotation_backward(quat: Floats, g: Floats, out: Floats) -> None:
    """Gradient of a quaternion of any length from that of its rotation matrix `g` [3, 3]."""
    w, x, y, z = float(quat[0]), float(quat[1]), float(quat[2]), float(quat[3])
    length = math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w / length, x / length, y / length, z / length
    gw = 2 * (x * (g[2, 1] - g[1, 2]) + y * (g[0, 2] - g[2, 0]) + z * (g[1, 0] - g[0, 1]))
    gx = 2 * (
        -2 * x * (g[1, 1] + g[2, 2]) + y * (g[0, 1] + g[1, 0]) + z * (g[0, 2] + g[2, 0]) + w * (g[2, 1] - g[1, 2])
    )
    gy = 2 * (x * (g[0, 1] + g[1, 0]) - 2 * y * (g[0, 0] + g[2, 2]) + z * (g[1, 2] + g[2, 1]) + w * (g[0, 2] - g[2, 0]))
    gz = 2 * (x * (g[0, 2] + g[2, 0]) + y * (g[1, 2] + g[2, 1]) - 2 * z * (g[0, 0] + g[1, 1]) + w * (g[1, 0] - g[0, 1]))
    along = w * gw + x * gx + y * gy + z * gz  # only what turns the quaternion counts, not what stretches it
    out[0], out[1] = (gw - along * w) / length, (gx - along * x) / length
    out[2], out[3] = (gy - along * y) / length, (gz - along * z) / length
