"""Triton kernel: blending weights of every (tile, Gaussian) intersection, summed over the cells that the tile touches.

One program per tile walks the tile's list front to back with 256 pixels at once, by the rule of rules.py
(points 3 and 4, RasterizeToIndices3DGS.cu in gsplat). No pixel list is ever written: the weights of a Gaussian go at
once into the few cells of the tile: first along the rows, then along the columns, because shares are products of the
two. (One product with the shares of all pixels needs TILE^2 * ROWS * COLS numbers in registers: at one pixel per cell
it spilled 1.6 kB per thread.)
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile_weights(  # type: ignore[no-untyped-def]
    means2d, conics, opacities, starts, gaussians, row_shares, col_shares, out,
    tile_cols, width, height, max_alpha, min_alpha, min_transmittance,
    TILE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """out [K, ROWS * COLS] f32 (zeros before): weights of intersection k in each of its tile's cells.

    means2d [N, 2], conics [N, 3], opacities [N]: f32. starts [tiles + 1], gaussians [K] i64: the tiles' lists.
    row_shares [tile rows * TILE, ROWS], col_shares [tile cols * TILE, COLS] f32: how a pixel row (column) is shared
    over the cell rows (columns) that its tile touches.
    """
    tile = tl.program_id(0)
    y = (tile // tile_cols) * TILE + tl.arange(0, TILE)
    x = (tile % tile_cols) * TILE + tl.arange(0, TILE)
    row, col = tl.arange(0, ROWS), tl.arange(0, COLS)
    row_share = tl.load(row_shares + y[:, None] * ROWS + row[None, :])  # [TILE, ROWS]
    col_share = tl.load(col_shares + x[:, None] * COLS + col[None, :])  # [TILE, COLS]
    cell = row[:, None] * COLS + col[None, :]
    alive = ((y < height)[:, None] & (x < width)[None, :]).to(tl.int32)
    transmittance = tl.full([TILE, TILE], 1.0, tl.float32)
    k = tl.load(starts + tile)
    last = tl.load(starts + tile + 1)
    while (k < last) & (tl.max(tl.max(alive, axis=1), axis=0) > 0):
        g = tl.load(gaussians + k)
        dx = (tl.load(means2d + 2 * g) - (x.to(tl.float32) + 0.5))[None, :]
        dy = (tl.load(means2d + 2 * g + 1) - (y.to(tl.float32) + 0.5))[:, None]
        a, b, c = tl.load(conics + 3 * g), tl.load(conics + 3 * g + 1), tl.load(conics + 3 * g + 2)
        sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
        alpha = tl.minimum(tl.load(opacities + g) * tl.exp(-sigma), max_alpha)
        counts = (alive > 0) & (sigma >= 0) & (alpha >= min_alpha)
        after = transmittance * (1 - alpha)
        stops = counts & (after <= min_transmittance)
        takes = counts & (after > min_transmittance)
        weight = tl.where(takes, alpha * transmittance, 0.0)
        transmittance = tl.where(takes, after, transmittance)
        alive = tl.where(stops, 0, alive)
        of_rows = tl.sum(weight[:, :, None] * col_share[None, :, :], axis=1)  # [TILE, COLS]
        of_cells = tl.sum(row_share[:, :, None] * of_rows[:, None, :], axis=0)  # [ROWS, COLS]
        tl.store(out + k * (ROWS * COLS) + cell, of_cells)
        k += 1
