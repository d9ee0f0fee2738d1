"""Front-to-back blending of values along each pixel's ray, and its gradients, one row of tiles at a time.

The rule stands in chorus_common/rasterize/rules.py, points 3 and 4.

    value = sum_i w_i v_i,   w_i = alpha_i T_i,   T_i = prod_{j<i} (1 - alpha_j),   alpha = 1 - T_end

Backwards, splats are visited from the last to the first; T_i is T_{i+1} / (1 - alpha_i), and one number, the inner
product of the incoming gradient with what lies behind, stands for all channels:

    dL/dv_i = w_i g,   dL/dalpha_i = T_i (v_i . g) - (behind_i - T_end g_alpha) / (1 - alpha_i)

Cut-offs carry no gradient. Gradients are stored per (tile, splat) pair and summed by the caller in a fixed order, so
that they do not depend on the number of threads. Exponents and transmittances are float64, values are of the arrays'
type.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chorus_common.rasterize.rules import MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE
from stage2_distill.gaussiancross.raster.projection import (
    COLUMN,
    CUT,
    DEPTH,
    GRAD_DEPTH,
    GRAD_MEAN_X,
    GRAD_MEAN_Y,
    GRAD_OPACITY,
    GRAD_WIDTH,
    GRAD_XX,
    GRAD_XY,
    GRAD_YY,
    MEAN_X,
    MEAN_Y,
    OPACITY,
    ROW,
    SLOPE,
    XX,
    XY,
    YY,
)
from stage2_distill.gaussiancross.raster.tiles import TILE

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def blend_row(
    tile_row: int, splats: Floats, values: Floats, start: Ints, ranks: Ints,
    picture: Floats, depth: Floats, rest: NDArray[np.float64], last: Ints,
) -> None:  # fmt: skip
    """Blend one row of tiles.

    Args:
        splats [M, 13] and values [M, C], sorted by depth; start, ranks: from `tile_lists`.
        picture [H, W, C], depth [H, W] (sum of w z), rest [H, W] (transmittance that is left), last [H, W] (one past
            the pixel's last contributor in `ranks`): outputs.
    """
    height, width = depth.shape
    channels = values.shape[1]
    columns = -(-width // TILE)
    total = np.empty(channels, values.dtype)
    for column in range(columns):
        tile = tile_row * columns + column
        for y in range(tile_row * TILE, min((tile_row + 1) * TILE, height)):
            for x in range(column * TILE, min((column + 1) * TILE, width)):
                t, z, end = 1.0, 0.0, start[tile]
                for c in range(channels):
                    total[c] = 0
                for k in range(start[tile], start[tile + 1]):
                    i = ranks[k]
                    dy = y + 0.5 - splats[i, MEAN_Y]
                    sigma = splats[i, COLUMN] * dy * dy
                    if sigma > splats[i, CUT]:
                        continue
                    along = x + 0.5 - splats[i, MEAN_X] + splats[i, SLOPE] * dy
                    sigma += splats[i, ROW] * along * along
                    if not sigma <= splats[i, CUT]:  # written so that NaN is skipped
                        continue
                    alpha = min(MAX_ALPHA, splats[i, OPACITY] * math.exp(-sigma))
                    if alpha < MIN_ALPHA:
                        continue
                    after = t * (1 - alpha)
                    if after <= MIN_TRANSMITTANCE:
                        break
                    weight = values.dtype.type(alpha * t)
                    for c in range(channels):
                        total[c] += weight * values[i, c]
                    z += alpha * t * splats[i, DEPTH]
                    t, end = after, k + 1
                for c in range(channels):
                    picture[y, x, c] = total[c]
                depth[y, x], rest[y, x], last[y, x] = z, t, end


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def blend_row_backward(
    tile_row: int, splats: Floats, values: Floats, start: Ints, ranks: Ints, rest: NDArray[np.float64], last: Ints,
    grad_picture: Floats, grad_depth: Floats, grad_alpha: Floats, pairs: Floats,
) -> None:  # fmt: skip
    """Gradients of one row of tiles into pairs [len(ranks), 7 + C]: columns GRAD_*, then one per value. Rows start at
    zero."""
    height, width = rest.shape
    channels = values.shape[1]
    columns = -(-width // TILE)
    for column in range(columns):
        tile = tile_row * columns + column
        for y in range(tile_row * TILE, min((tile_row + 1) * TILE, height)):
            for x in range(column * TILE, min((column + 1) * TILE, width)):
                t = rest[y, x]
                g_depth = float(grad_depth[y, x])
                behind = -t * float(grad_alpha[y, x])
                for k in range(last[y, x] - 1, start[tile] - 1, -1):
                    i = ranks[k]
                    dy = y + 0.5 - splats[i, MEAN_Y]
                    sigma = splats[i, COLUMN] * dy * dy
                    if sigma > splats[i, CUT]:
                        continue
                    dx = x + 0.5 - splats[i, MEAN_X]
                    along = dx + splats[i, SLOPE] * dy
                    sigma += splats[i, ROW] * along * along
                    if not sigma <= splats[i, CUT]:
                        continue
                    fall = math.exp(-sigma)
                    alpha = min(MAX_ALPHA, splats[i, OPACITY] * fall)
                    if alpha < MIN_ALPHA:
                        continue
                    t = t / (1 - alpha)
                    weight = alpha * t
                    small = values.dtype.type(weight)
                    dot = values.dtype.type(0)
                    for c in range(channels):
                        dot += values[i, c] * grad_picture[y, x, c]
                        pairs[k, GRAD_WIDTH + c] += small * grad_picture[y, x, c]
                    inner = float(dot) + splats[i, DEPTH] * g_depth
                    g_a = t * inner - behind / (1 - alpha)
                    behind += weight * inner
                    pairs[k, GRAD_DEPTH] += weight * g_depth
                    if alpha < MAX_ALPHA:
                        pairs[k, GRAD_OPACITY] += fall * g_a
                        g_s = -alpha * g_a
                        pairs[k, GRAD_XX] += 0.5 * dx * dx * g_s
                        pairs[k, GRAD_XY] += dx * dy * g_s
                        pairs[k, GRAD_YY] += 0.5 * dy * dy * g_s
                        pairs[k, GRAD_MEAN_X] -= (splats[i, XX] * dx + splats[i, XY] * dy) * g_s
                        pairs[k, GRAD_MEAN_Y] -= (splats[i, XY] * dx + splats[i, YY] * dy) * g_s


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def sum_pairs(pairs: Floats, ranks: Ints, out: Floats) -> None:
    """Add the pairs of every splat to out [M, 7 + C], in the order of the tiles."""
    for k in range(len(ranks)):
        for c in range(pairs.shape[1]):
            out[ranks[k], c] += pairs[k, c]
