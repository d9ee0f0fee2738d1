"""The visible Gaussians of one view as splats: one 64-byte line per ellipse, ready for tiles.py and blend.py.

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

from chorus_common.rasterize.projection import clamp_bounds, project_gaussian

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
    eps2d: float,
    compensated: bool,
    begin: int,
    end: int,
    splats: NDArray[np.float32],
    ids: NDArray[np.int64],
) -> int:
    """Project Gaussians begin..end-1 and write the visible ones, in index order, to `splats` and `ids` from row
    `begin` on.

    Args:
        means, scales [N, 3] m; quats [N, 4] wxyz; opacities [N]; colors [N, 3]; viewmat [4, 4] world to camera;
        intrinsics [3, 3] px; eps2d, compensated: see `rules.LowPass`.
        splats [N, 16] f32, ids [N] i64: outputs.
    Returns: how many were visible.
    """
    bounds = clamp_bounds(intrinsics, width, height)
    out = begin
    for i in range(begin, end):
        visible, mean_x, mean_y, z, opacity, variance_x, variance_y, covariance, extent_x, extent_y = project_gaussian(
            means[i], quats[i], scales[i], np.float64(opacities[i]), viewmat, intrinsics, bounds, width, height,
            eps2d, compensated,
        )  # fmt: skip
        if not visible:
            continue
        det = variance_x * variance_y - covariance * covariance
        root = math.sqrt(det)
        splats[out, MEAN_X] = mean_x
        splats[out, MEAN_Y] = mean_y
        splats[out, OPACITY] = opacity
        splats[out, DEPTH] = z
        splats[out, ROW_SIGMA] = 0.5 / variance_y
        splats[out, ROW_SLOPE] = covariance / variance_y
        splats[out, ROW_CURVATURE] = 0.5 * variance_y / det
        splats[out, EXTENT_X] = extent_x
        splats[out, EXTENT_Y] = extent_y
        splats[out, WIDTH_RATIO] = root / variance_y
        splats[out, COLUMN_SLOPE] = covariance / variance_x
        splats[out, HEIGHT_RATIO] = root / variance_x
        splats[out, RED] = colors[i, 0]
        splats[out, GREEN] = colors[i, 1]
        splats[out, BLUE] = colors[i, 2]
        ids[out] = i
        out += 1
    return out - begin
