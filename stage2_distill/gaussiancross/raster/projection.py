"""Project Gaussians to screen-space ellipses, and carry gradients back through the projection.

The rule is gsplat 1.5.3's (ProjectionEWA3DGSFused.cu, Utils.cuh persp_proj): low-pass filter of 0.3 px^2, near plane
0.01, the Jacobian clamped at 1.3 times the field of view, Gaussians below 1/255 left out. World to camera is any affine
map, not only a rigid one: that is how a camera follows a scene into its cuboid (cuboid.py), and gsplat's own kernels
take it as well, because they only ever multiply by it.

    c = A m + t,   mean2d = (fx c_x / c_z + cx, fy c_y / c_z + cy)
    P = J A R(q) diag(s)   [2, 3],   cov = P P^T + 0.3 I,   conic = cov^-1

Everything is computed in float64 and rounded to the arrays' type at the end.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.floating]

EPS2D = 0.3
NEAR_PLANE = 0.01
MIN_ALPHA = 1.0 / 255.0
MAX_EXTENT = 3.33

#: Columns of a splat. conic = (XX, XY, YY) of the inverse covariance; CUT is the sigma at which alpha falls to 1/255.
#: The exponent is ROW (dx + SLOPE dy)^2 + COLUMN dy^2, a sum of squares: the plain form cancels for thin splats.
MEAN_X, MEAN_Y, COLUMN, CUT, SLOPE, ROW, OPACITY, DEPTH, XX, XY, YY, EXTENT_X, EXTENT_Y = range(13)
SPLAT_WIDTH = 13
#: Columns of a splat's gradient; further columns belong to its values.
GRAD_MEAN_X, GRAD_MEAN_Y, GRAD_XX, GRAD_XY, GRAD_YY, GRAD_OPACITY, GRAD_DEPTH = range(7)
GRAD_WIDTH = 7


@njit(nogil=True, cache=True, error_model="numpy")
def _rotation(quat: Floats, out: Floats) -> float:
    """Rotation matrix of a quaternion (w, x, y, z) of any length into `out` [3, 3]; returns its length."""
    w, x, y, z = float(quat[0]), float(quat[1]), float(quat[2]), float(quat[3])
    length = math.sqrt(w * w + x * x + y * y + z * z)
    if length == 0.0:
        return 0.0
    w, x, y, z = w / length, x / length, y / length, z / length
    out[0, 0], out[0, 1], out[0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    out[1, 0], out[1, 1], out[1, 2] = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    out[2, 0], out[2, 1], out[2, 2] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    return length


@njit(nogil=True, cache=True, error_model="numpy")
def _screen(
    mean: Floats, viewmat: Floats, intrinsics: Floats, width: int, height: int, camera: Floats, flat: Floats
) -> bool:
    """Camera coordinates into `camera` [3] and B = J A into `flat` [2, 3]; False behind the near plane.

    Also writes (t_x, t_y, free_x, free_y) into camera[3:7]: the clamped x / z and y / z, and 1 where the clamp is idle.
    """
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    for r in range(3):
        camera[r] = viewmat[r, 0] * mean[0] + viewmat[r, 1] * mean[1] + viewmat[r, 2] * mean[2] + viewmat[r, 3]
    z = camera[2]
    if not z >= NEAR_PLANE:  # written so that NaN is left out
        return False
    x, y = camera[0] / z, camera[1] / z
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    tx = min((width - cx) / fx + margin_x, max(-cx / fx - margin_x, x))
    ty = min((height - cy) / fy + margin_y, max(-cy / fy - margin_y, y))
    camera[3], camera[4] = tx, ty
    camera[5], camera[6] = 1.0 if tx == x else 0.0, 1.0 if ty == y else 0.0
    for k in range(3):
        flat[0, k] = fx / z * (viewmat[0, k] - tx * viewmat[2, k])
        flat[1, k] = fy / z * (viewmat[1, k] - ty * viewmat[2, k])
    return True


@njit(nogil=True, cache=True, error_model="numpy")
def project(
    means: Floats, quats: Floats, scales: Floats, opacities: Floats, viewmat: Floats, intrinsics: Floats,
    width: int, height: int, splats: Floats, ids: NDArray[np.int64],
) -> int:  # fmt: skip
    """Write the visible Gaussians, in index order, to splats [N, 13] and ids [N]; returns how many they are.

    Args:
        means, scales [N, 3]; quats [N, 4] wxyz of any length; opacities [N]; viewmat [4, 4] f64, intrinsics [3, 3] f64.
    """
    rotation = np.empty((3, 3))
    camera = np.empty(7)
    flat = np.empty((2, 3))
    count = 0
    for i in range(len(means)):
        opacity = float(opacities[i])
        if not opacity >= MIN_ALPHA:
            continue
        if not _screen(means[i], viewmat, intrinsics, width, height, camera, flat):
            continue
        if _rotation(quats[i], rotation) == 0.0:
            continue
        var_x, var_y, cov = EPS2D, EPS2D, 0.0
        for k in range(3):
            s = float(scales[i, k])
            u = s * (flat[0, 0] * rotation[0, k] + flat[0, 1] * rotation[1, k] + flat[0, 2] * rotation[2, k])
            v = s * (flat[1, 0] * rotation[0, k] + flat[1, 1] * rotation[1, k] + flat[1, 2] * rotation[2, k])
            var_x += u * u
            var_y += v * v
            cov += u * v
        det = var_x * var_y - cov * cov
        if not (det > 0.0 and det < 1e300):
            continue
        z = camera[2]
        mean_x = intrinsics[0, 0] * camera[0] / z + intrinsics[0, 2]
        mean_y = intrinsics[1, 1] * camera[1] / z + intrinsics[1, 2]
        cut = math.log(opacity * 255.0)
        extent = min(MAX_EXTENT, math.sqrt(2.0 * cut))
        extent_x, extent_y = math.ceil(extent * math.sqrt(var_x)), math.ceil(extent * math.sqrt(var_y))
        if extent_x <= 0 and extent_y <= 0:
            continue
        if (
            mean_x + extent_x <= 0
            or mean_x - extent_x >= width
            or mean_y + extent_y <= 0
            or mean_y - extent_y >= height
        ):
            continue
        row = splats[count]
        row[MEAN_X], row[MEAN_Y] = mean_x, mean_y
        row[XX], row[XY], row[YY] = var_y / det, -cov / det, var_x / det
        row[ROW], row[SLOPE], row[COLUMN] = 0.5 * var_y / det, -cov / var_y, 0.5 / var_y
        row[OPACITY], row[DEPTH], row[CUT] = opacity, z, cut + 1e-3  # a bound; the blending rule itself decides
        row[EXTENT_X], row[EXTENT_Y] = extent_x, extent_y
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
    rotation = np.empty((3, 3))
    camera = np.empty(7)
    flat = np.empty((2, 3))
    axes = np.empty((3, 3))  # R diag(s)
    plane = np.empty((2, 3))  # P
    grad_plane = np.empty((2, 3))
    grad_flat = np.empty((2, 3))
    g_rot = np.empty((3, 3))
    for m in range(len(ids)):
        i = ids[m]
        g = grads[m]
        _screen(means[i], viewmat, intrinsics, width, height, camera, flat)
        length = _rotation(quats[i], rotation)
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
        _rotation_backward(quats[i], length, g_rot, grad_quats[i])
        # B = J A
        j00 = grad_flat[0, 0] * viewmat[0, 0] + grad_flat[0, 1] * viewmat[0, 1] + grad_flat[0, 2] * viewmat[0, 2]
        j02 = grad_flat[0, 0] * viewmat[2, 0] + grad_flat[0, 1] * viewmat[2, 1] + grad_flat[0, 2] * viewmat[2, 2]
        j11 = grad_flat[1, 0] * viewmat[1, 0] + grad_flat[1, 1] * viewmat[1, 1] + grad_flat[1, 2] * viewmat[1, 2]
        j12 = grad_flat[1, 0] * viewmat[2, 0] + grad_flat[1, 1] * viewmat[2, 1] + grad_flat[1, 2] * viewmat[2, 2]
        z, tx, ty = camera[2], camera[3], camera[4]
        gz = float(g[GRAD_DEPTH])
        gz += (-j00 * fx + j02 * fx * tx - j11 * fy + j12 * fy * ty) / (z * z)
        g_tx, g_ty = -j02 * fx / z * camera[5], -j12 * fy / z * camera[6]
        gx, gy = g_tx / z, g_ty / z
        gz -= (g_tx * tx + g_ty * ty) / z
        # mean2d
        gx += g[GRAD_MEAN_X] * fx / z
        gy += g[GRAD_MEAN_Y] * fy / z
        gz -= (g[GRAD_MEAN_X] * fx * camera[0] + g[GRAD_MEAN_Y] * fy * camera[1]) / (z * z)
        for k in range(3):
            grad_means[i, k] = viewmat[0, k] * gx + viewmat[1, k] * gy + viewmat[2, k] * gz
        grad_opacities[i] = g[GRAD_OPACITY]


@njit(nogil=True, cache=True, error_model="numpy")
def _rotation_backward(quat: Floats, length: float, g: Floats, out: Floats) -> None:
    """Gradient of a quaternion of any length from that of its rotation matrix `g` [3, 3]."""
    w, x, y, z = quat[0] / length, quat[1] / length, quat[2] / length, quat[3] / length
    gw = 2 * (x * (g[2, 1] - g[1, 2]) + y * (g[0, 2] - g[2, 0]) + z * (g[1, 0] - g[0, 1]))
    gx = 2 * (
        -2 * x * (g[1, 1] + g[2, 2]) + y * (g[0, 1] + g[1, 0]) + z * (g[0, 2] + g[2, 0]) + w * (g[2, 1] - g[1, 2])
    )
    gy = 2 * (x * (g[0, 1] + g[1, 0]) - 2 * y * (g[0, 0] + g[2, 2]) + z * (g[1, 2] + g[2, 1]) + w * (g[0, 2] - g[2, 0]))
    gz = 2 * (x * (g[0, 2] + g[2, 0]) + y * (g[1, 2] + g[2, 1]) - 2 * z * (g[0, 0] + g[1, 1]) + w * (g[1, 0] - g[0, 1]))
    along = w * gw + x * gx + y * gy + z * gz  # only what turns the quaternion counts, not what stretches it
    out[0], out[1] = (gw - along * w) / length, (gx - along * x) / length
    out[2], out[3] = (gy - along * y) / length, (gz - along * z) / length
