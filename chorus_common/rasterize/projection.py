"""Project 3D Gaussians to screen-space ellipses: EWA splatting with the constants and cut-offs of gsplat 1.5.3.

Source of the rule: gsplat 1.5.3, ProjectionEWA3DGSFused.cu and Utils.cuh (persp_proj): low-pass filter of 0.3 px^2,
near plane 0.01 m, the Jacobian's clamp at 1.3 times the field of view, opacity-aware extent. All of it is computed in
float64 and rounded once at the end.

The ellipse is kept in a form of its own. gsplat's exponent 0.5 (A dx^2 + C dy^2) + B dx dy cancels badly in float32
for long thin Gaussians; with the covariance [[a, b], [b, c]] and det = ac - b^2, completing the square gives

    sigma = dy^2 / (2c)  +  c / (2 det) * (dx - b/c dy)^2,

two terms that are never negative and, along a picture row, one multiply-add per pixel.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

EPS2D = 0.3
NEAR_PLANE = 0.01
FAR_PLANE = 1e10
ALPHA_MIN = 1.0 / 255.0
MAX_EXTENT = 3.33

#: Columns of a splat, one 64-byte line per Gaussian.
MEAN_X, MEAN_Y, OPACITY, DEPTH = 0, 1, 2, 3
ROW_SIGMA = 4  # 1 / (2c): sigma of a row's nearest point, per dy^2
ROW_SLOPE = 5  # b / c: how far a row's nearest point moves per dy
ROW_CURVATURE = 6  # c / (2 det): growth of sigma along a row, per px^2
EXTENT_X, EXTENT_Y = 7, 8  # half widths of the box around alpha >= 1/255, px
WIDTH_RATIO = 9  # sqrt(det) / c: half width of a row's span = WIDTH_RATIO * sqrt(EXTENT_Y^2 - dy^2)
COLUMN_SLOPE = 10  # b / a
HEIGHT_RATIO = 11  # sqrt(det) / a
RED, GREEN, BLUE = 12, 13, 14
SPLAT_WIDTH = 16


@njit(nogil=True, cache=True, error_model="numpy")
def project(
    means: NDArray[np.float32],
    quats: NDArray[np.float32],
    scales: NDArray[np.float32],
    opacities: NDArray[np.float32],
    colors: NDArray[np.float32],
    viewmat: NDArray[np.float64],
    intrinsics: NDArray[np.float64],
    width: int,
    height: int,
    begin: int,
    end: int,
    splats: NDArray[np.float32],
    ids: NDArray[np.int64],
) -> int:
    """Project Gaussians begin..end-1 and write the visible ones, in index order, to `splats` and `ids` from row
    `begin` on.

    Args:
        means, scales [N, 3] m; quats [N, 4] wxyz; opacities [N]; colors [N, 3]; viewmat [4, 4] world to camera;
        intrinsics [3, 3] px.
        splats [N, 16] f32, ids [N] i64: outputs.
    Returns: how many were visible.
    """
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    x_max, x_min = (width - cx) / fx + margin_x, -cx / fx - margin_x
    y_max, y_min = (height - cy) / fy + margin_y, -cy / fy - margin_y
    r00, r01, r02 = viewmat[0, 0], viewmat[0, 1], viewmat[0, 2]
    r10, r11, r12 = viewmat[1, 0], viewmat[1, 1], viewmat[1, 2]
    r20, r21, r22 = viewmat[2, 0], viewmat[2, 1], viewmat[2, 2]
    out = begin
    for i in range(begin, end):
        px, py, pz = np.float64(means[i, 0]), np.float64(means[i, 1]), np.float64(means[i, 2])
        z = r20 * px + r21 * py + r22 * pz + viewmat[2, 3]
        opacity = np.float64(opacities[i])
        if not (z >= NEAR_PLANE and z <= FAR_PLANE and opacity >= ALPHA_MIN):  # written so that NaN is culled
            continue
        x = (r00 * px + r01 * py + r02 * pz + viewmat[0, 3]) / z
        y = (r10 * px + r11 * py + r12 * pz + viewmat[1, 3]) / z
        mean_x, mean_y = fx * x + cx, fy * y + cy
        # columns of J R, J being the Jacobian of the projection at the point clamped to 1.3 times the field of view
        tx, ty = min(x_max, max(x_min, x)), min(y_max, max(y_min, y))
        jx, jy = fx / z, fy / z
        u0, u1, u2 = jx * (r00 - tx * r20), jx * (r01 - tx * r21), jx * (r02 - tx * r22)
        v0, v1, v2 = jy * (r10 - ty * r20), jy * (r11 - ty * r21), jy * (r12 - ty * r22)
        qw, qx, qy, qz = (
            np.float64(quats[i, 0]),
            np.float64(quats[i, 1]),
            np.float64(quats[i, 2]),
            np.float64(quats[i, 3]),
        )
        two = 2.0 / (qw * qw + qx * qx + qy * qy + qz * qz)
        # local axis k in the world, times its scale; its projection is (u . axis, v . axis)
        var_x = EPS2D
        var_y = EPS2D
        cov = 0.0
        for k in range(3):
            if k == 0:
                e0, e1, e2 = 1 - two * (qy * qy + qz * qz), two * (qx * qy + qw * qz), two * (qx * qz - qw * qy)
            elif k == 1:
                e0, e1, e2 = two * (qx * qy - qw * qz), 1 - two * (qx * qx + qz * qz), two * (qy * qz + qw * qx)
            else:
                e0, e1, e2 = two * (qx * qz + qw * qy), two * (qy * qz - qw * qx), 1 - two * (qx * qx + qy * qy)
            s = np.float64(scales[i, k])
            du, dv = s * (u0 * e0 + u1 * e1 + u2 * e2), s * (v0 * e0 + v1 * e1 + v2 * e2)
            var_x += du * du
            var_y += dv * dv
            cov += du * dv
        det = var_x * var_y - cov * cov
        if not (det > 0.0 and det < 1e300):
            continue
        extent = min(MAX_EXTENT, math.sqrt(2.0 * math.log(opacity * 255.0)))
        extent_x, extent_y = extent * math.sqrt(var_x), extent * math.sqrt(var_y)
        box_x, box_y = math.ceil(extent_x), math.ceil(extent_y)
        if box_x <= 0 and box_y <= 0:
            continue
        if mean_x + box_x <= 0 or mean_x - box_x >= width or mean_y + box_y <= 0 or mean_y - box_y >= height:
            continue
        root = math.sqrt(det)
        splats[out, MEAN_X] = mean_x
        splats[out, MEAN_Y] = mean_y
        splats[out, OPACITY] = opacity
        splats[out, DEPTH] = z
        splats[out, ROW_SIGMA] = 0.5 / var_y
        splats[out, ROW_SLOPE] = cov / var_y
        splats[out, ROW_CURVATURE] = 0.5 * var_y / det
        splats[out, EXTENT_X] = extent_x
        splats[out, EXTENT_Y] = extent_y
        splats[out, WIDTH_RATIO] = root / var_y
        splats[out, COLUMN_SLOPE] = cov / var_x
        splats[out, HEIGHT_RATIO] = root / var_x
        splats[out, RED] = colors[i, 0]
        splats[out, GREEN] = colors[i, 1]
        splats[out, BLUE] = colors[i, 2]
        ids[out] = i
        out += 1
    return out - begin
