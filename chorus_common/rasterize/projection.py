"""Project one 3D Gaussian to an ellipse on the screen: EWA splatting with gsplat 1.5.3's cut-offs (rules.py).

World to camera is any affine map, not only a rigid one, as in gsplat's kernels, which only ever multiply by it:

    c = A m + t,   mean2d = (fx c_x / c_z + cx, fy c_y / c_z + cy)
    P = J A R(q) diag(s)  [2, 3],   covariance = P P^T + eps2d I

Both rasterisers on the CPU are made of these functions: the fast one (splats.py) and the differentiable one
(stage2_distill/gaussiancross/raster). Everything is float64; the caller rounds once at the end. Small tuples stand
where arrays would be, because numba keeps them in registers.

Source: gsplat 1.5.3, ProjectionEWA3DGSFused.cu and Utils.cuh (persp_proj, quat_to_rotmat, add_blur).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chorus_common.rasterize.rules import FAR_PLANE, FIELD_MARGIN, MAX_EXTENT, MIN_ALPHA, NEAR_PLANE

Floats = NDArray[np.floating]
F64 = NDArray[np.float64]
Three = tuple[float, float, float]
Six = tuple[float, float, float, float, float, float]
Nine = tuple[float, float, float, float, float, float, float, float, float]


@njit(nogil=True, cache=True, error_model="numpy")
def clamp_bounds(intrinsics: F64, width: int, height: int) -> tuple[float, float, float, float]:
    """(x_min, x_max, y_min, y_max) of x / z and y / z that the Jacobian is clamped to."""
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    margin_x, margin_y = FIELD_MARGIN * width / fx, FIELD_MARGIN * height / fy
    return -cx / fx - margin_x, (width - cx) / fx + margin_x, -cy / fy - margin_y, (height - cy) / fy + margin_y


@njit(nogil=True, cache=True, error_model="numpy")
def camera_point(viewmat: F64, mean: Floats) -> Three:
    """A point [3] of the world in camera space (OpenCV axes)."""
    x, y, z = np.float64(mean[0]), np.float64(mean[1]), np.float64(mean[2])
    return (
        viewmat[0, 0] * x + viewmat[0, 1] * y + viewmat[0, 2] * z + viewmat[0, 3],
        viewmat[1, 0] * x + viewmat[1, 1] * y + viewmat[1, 2] * z + viewmat[1, 3],
        viewmat[2, 0] * x + viewmat[2, 1] * y + viewmat[2, 2] * z + viewmat[2, 3],
    )


@njit(nogil=True, cache=True, error_model="numpy")
def projected_axes(viewmat: F64, fx: float, fy: float, tx: float, ty: float, z: float) -> Six:
    """Rows of J A [2, 3], J being the Jacobian of the projection at (tx, ty) = clamped (x / z, y / z) and depth z."""
    jx, jy = fx / z, fy / z
    return (
        jx * (viewmat[0, 0] - tx * viewmat[2, 0]),
        jx * (viewmat[0, 1] - tx * viewmat[2, 1]),
        jx * (viewmat[0, 2] - tx * viewmat[2, 2]),
        jy * (viewmat[1, 0] - ty * viewmat[2, 0]),
        jy * (viewmat[1, 1] - ty * viewmat[2, 1]),
        jy * (viewmat[1, 2] - ty * viewmat[2, 2]),
    )


@njit(nogil=True, cache=True, error_model="numpy")
def rotation_matrix(quat: Floats) -> Nine:
    """Rotation matrix, row by row, of a quaternion [4] (w, x, y, z) of any length; NaN for a zero one."""
    w, x, y, z = np.float64(quat[0]), np.float64(quat[1]), np.float64(quat[2]), np.float64(quat[3])
    two = 2.0 / (w * w + x * x + y * y + z * z)
    return (
        1 - two * (y * y + z * z), two * (x * y - w * z), two * (x * z + w * y),
        two * (x * y + w * z), 1 - two * (x * x + z * z), two * (y * z - w * x),
        two * (x * z - w * y), two * (y * z + w * x), 1 - two * (x * x + y * y),
    )  # fmt: skip


@njit(nogil=True, cache=True, error_model="numpy")
def project_gaussian(
    mean: Floats, quat: Floats, scale: Floats, opacity: float, viewmat: F64, intrinsics: F64,
    bounds: tuple[float, float, float, float], width: int, height: int, eps2d: float, compensated: bool,
) -> tuple[bool, float, float, float, float, float, float, float, float, float]:  # fmt: skip
    """The ellipse of one Gaussian.

    Args:
        mean, scale [3], quat [4] wxyz of any length, opacity as float64; viewmat [4, 4], intrinsics [3, 3] px; bounds:
            from `clamp_bounds`; eps2d, compensated: see `rules.LowPass`.
    Returns:
        (visible, mean_x, mean_y px, depth, opacity on the screen, variance_x, variance_y, covariance px^2, extent_x,
        extent_y: half widths in px of the box around alpha >= MIN_ALPHA). Where `visible` is False the rest means
        nothing.
    """
    nothing = (False, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    fx, fy = intrinsics[0, 0], intrinsics[1, 1]
    camera_x, camera_y, z = camera_point(viewmat, mean)
    if not (z >= NEAR_PLANE and z <= FAR_PLANE and opacity >= MIN_ALPHA):  # written so that NaN is left out
        return nothing
    x, y = camera_x / z, camera_y / z
    mean_x, mean_y = fx * x + intrinsics[0, 2], fy * y + intrinsics[1, 2]
    tx, ty = min(bounds[1], max(bounds[0], x)), min(bounds[3], max(bounds[2], y))
    u0, u1, u2, v0, v1, v2 = projected_axes(viewmat, fx, fy, tx, ty, z)
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = rotation_matrix(quat)
    s0, s1, s2 = np.float64(scale[0]), np.float64(scale[1]), np.float64(scale[2])
    # columns of P: each local axis of the Gaussian, times its scale, on the screen
    a0, b0 = s0 * (u0 * r00 + u1 * r10 + u2 * r20), s0 * (v0 * r00 + v1 * r10 + v2 * r20)
    a1, b1 = s1 * (u0 * r01 + u1 * r11 + u2 * r21), s1 * (v0 * r01 + v1 * r11 + v2 * r21)
    a2, b2 = s2 * (u0 * r02 + u1 * r12 + u2 * r22), s2 * (v0 * r02 + v1 * r12 + v2 * r22)
    variance_x = eps2d + a0 * a0 + a1 * a1 + a2 * a2
    variance_y = eps2d + b0 * b0 + b1 * b1 + b2 * b2
    covariance = a0 * b0 + a1 * b1 + a2 * b2
    det = variance_x * variance_y - covariance * covariance
    if not (det > 0.0 and det < 1e300):
        return nothing
    if compensated:
        before = (a0 * a0 + a1 * a1 + a2 * a2) * (b0 * b0 + b1 * b1 + b2 * b2) - covariance * covariance
        opacity *= math.sqrt(max(0.0, before / det))
        if opacity < MIN_ALPHA:
            return nothing
    extent = min(MAX_EXTENT, math.sqrt(2.0 * math.log(opacity / MIN_ALPHA)))
    extent_x, extent_y = extent * math.sqrt(variance_x), extent * math.sqrt(variance_y)
    box_x, box_y = math.ceil(extent_x), math.ceil(extent_y)
    if box_x <= 0 and box_y <= 0:
        return nothing
    if mean_x + box_x <= 0 or mean_x - box_x >= width or mean_y + box_y <= 0 or mean_y - box_y >= height:
        return nothing
    return True, mean_x, mean_y, z, opacity, variance_x, variance_y, covariance, extent_x, extent_y
