"""Front-to-back blending of one row of tiles: colour, depth, alpha and the weights per (cell, Gaussian), in one pass.

The rule is gsplat 1.5.3's (RasterizeToIndices3DGS.cu, RasterizeToPixels3DGSFwd.cu): alpha = min(0.999, o exp(-sigma)) at the pixel centre, skipped
below 1/255; a pixel stops, without the splat in question, when its transmittance would fall to 1e-4 or less; weight = alpha T.

How it is fast: a tile is at most 16 pixels wide and all its state lies in one flat float32 buffer with 16 lanes per row, so that the inner
loop is 16 independent lanes without branches, which the compiler turns into vector code. A stopped pixel has T = 0 and needs no flag. Rows
that the ellipse misses inside the tile are never visited.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stage1_render_teachers.rasterize.projection import (
    BLUE, DEPTH, GREEN, MEAN_X, MEAN_Y, OPACITY, RED, ROW_CURVATURE, ROW_SIGMA, ROW_SLOPE,
)  # fmt: skip
from stage1_render_teachers.rasterize.tiles import rows_in_strip

LANES = 16
MAX_ALPHA = np.float32(0.999)
MIN_ALPHA = np.float32(1 / 255)
MIN_TRANSMITTANCE = np.float32(1e-4)
#: exp is only needed where alpha can reach 1/255, that is on [-5.55, 0].
MAX_SIGMA = np.float32(5.6)

#: Planes of the tile's state buffer, each LANES x LANES.
PLANE = LANES * LANES
T, R, G, B, Z, A = 0, PLANE, 2 * PLANE, 3 * PLANE, 4 * PLANE, 5 * PLANE
ROW_WEIGHTS = 6 * PLANE  # weights of the current row
CELL_ROWS = ROW_WEIGHTS + LANES  # per row of cells that the tile touches: weights summed over its pixel rows
STATE_SIZE = CELL_ROWS + (LANES + 3) * LANES

#: Relative minimax polynomial of exp on [-0.7, 0], error 6e-8; raised to the 8th power below.
C0, C1, C2, C3, C4, C5 = (
    np.float32(c) for c in (0.99999994, 0.9999914765, 0.4998707473, 0.1659310609, 0.0397088304, 0.0058131367)
)  # fmt: skip


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"}, inline="always")
def exp_neg(sigma: np.float32) -> np.float32:
    """exp(-sigma) for sigma in [0, 5.6], relative error below 2e-6 (float32); larger sigma give exp(-5.6)."""
    s = (sigma if sigma < MAX_SIGMA else MAX_SIGMA) * np.float32(-0.125)
    p = C0 + s * (C1 + s * (C2 + s * (C3 + s * (C4 + s * C5))))
    p = p * p
    p = p * p
    return p * p


@njit(nogil=True, cache=True, error_model="numpy")
def fold_table(
    begin: int, count: int, cell: int, n_cells: int, bilinear: bool
) -> tuple[int, NDArray[np.int64], NDArray[np.float32]]:
    """How `count` pixels from `begin` on are shared out over cells along one axis.

    Returns (first cell, low [count], share [count]): pixel begin + k gives 1 - share[k] to cell first + low[k] and share[k] to the one after.
    """
    low = np.empty(count, np.int64)
    share = np.zeros(count, np.float32)
    for k in range(count):
        if bilinear:
            centre = (begin + k + 0.5) / cell - 0.5
            if centre <= 0:
                low[k] = 0
            elif centre >= n_cells - 1:
                low[k] = n_cells - 1
            else:
                low[k] = int(centre)
                share[k] = centre - low[k]
        else:
            low[k] = (begin + k) // cell
    first = low[0]
    for k in range(count):
        low[k] -= first
    return first, low, share


@njit(nogil=True, cache=True, error_model="numpy")
def _grown(
    cells: NDArray[np.int32], ranks: NDArray[np.int32], weights: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """The same three buffers with twice the room."""
    n = len(cells)
    more_cells, more_ranks, more_weights = np.empty(2 * n, np.int32), np.empty(2 * n, np.int32), np.empty(2 * n, np.float32)
    more_cells[:n], more_ranks[:n], more_weights[:n] = cells, ranks, weights
    return more_cells, more_ranks, more_weights


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def blend_tile_row(
    tile_row: int,
    tile: int,
    splats: NDArray[np.float32],
    start: NDArray[np.int64],
    ranks: NDArray[np.int32],
    background: NDArray[np.float32],
    color: NDArray[np.float32],
    depth: NDArray[np.float32],
    alpha: NDArray[np.float32],
    cell: int,
    bilinear: bool,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """Blend one row of tiles into color [H, W, 3], depth [H, W], alpha [H, W]; cell = 0 leaves the hits out.

    splats [M, 16] sorted by depth, start and ranks from `tile_lists`.
    Returns (cells, ranks, weights), each [hits]: the weight of splat `rank` in a cell, unsorted; a pair may occur once per tile.
    """
    height, width = alpha.shape
    tile_cols = -(-width // tile)
    y0, y1 = tile_row * tile, min((tile_row + 1) * tile, height)
    state = np.empty(STATE_SIZE, np.float32)
    hits = 0
    room = 0
    grid_cols = 0
    if cell > 0:
        room = 64 + 2 * (start[(tile_row + 1) * tile_cols] - start[tile_row * tile_cols])
        grid_cols = -(-width // cell)
    hit_cells, hit_ranks, hit_weights = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.float32)
    first_cell_row, row_low, row_share = fold_table(y0, y1 - y0, max(cell, 1), -(-height // max(cell, 1)), bilinear)
    cell_sums = np.empty(LANES + 3, np.float32)

    for tile_col in range(tile_cols):
        x0, x1 = tile_col * tile, min((tile_col + 1) * tile, width)
        columns = x1 - x0
        first_cell_col, col_low, col_share = fold_table(x0, columns, max(cell, 1), -(-width // max(cell, 1)), bilinear)
        n_cell_cols = col_low[columns - 1] + 2
        state[:] = 0
        for y in range(y1 - y0):  # lanes beyond the picture start stopped
            for x in range(columns):
                state[T + y * LANES + x] = 1
        live_first, live_last = y0, y1
        t = tile_row * tile_cols + tile_col
        for k in range(start[t], start[t + 1]):
            if (k - start[t]) % 16 == 0:  # forget rows at the tile's top and bottom that have stopped altogether
                while live_first < live_last:
                    most = np.float32(0)
                    for x in range(LANES):
                        most = max(most, state[T + (live_first - y0) * LANES + x])
                    if most > 0:
                        break
                    live_first += 1
                while live_last > live_first:
                    most = np.float32(0)
                    for x in range(LANES):
                        most = max(most, state[T + (live_last - 1 - y0) * LANES + x])
                    if most > 0:
                        break
                    live_last -= 1
                if live_first == live_last:
                    break
            rank = ranks[k]
            splat = splats[rank]
            first, last = rows_in_strip(splat, x0, x1, live_first, live_last)
            if first >= last:
                continue
            opacity, curvature, z = splat[OPACITY], splat[ROW_CURVATURE], splat[DEPTH]
            red, green, blue = splat[RED], splat[GREEN], splat[BLUE]
            cell_first, cell_last = 0, 0
            if cell > 0:
                cell_first, cell_last = row_low[first - y0], row_low[last - 1 - y0] + 2
                for i in range(CELL_ROWS + cell_first * LANES, CELL_ROWS + cell_last * LANES):
                    state[i] = 0
            for y in range(first, last):
                dy = np.float32(y) + np.float32(0.5) - splat[MEAN_Y]
                row_sigma = dy * dy * splat[ROW_SIGMA]
                offset = np.float32(x0) + np.float32(0.5) - splat[MEAN_X] - dy * splat[ROW_SLOPE]
                row = (y - y0) * LANES
                for x in range(LANES):
                    i = row + x
                    dx = np.float32(x) + offset
                    a = opacity * exp_neg(row_sigma + curvature * dx * dx)
                    a = a if a < MAX_ALPHA else MAX_ALPHA
                    before = state[T + i]
                    after = before - before * a
                    counts = a >= MIN_ALPHA
                    goes_on = after > MIN_TRANSMITTANCE
                    w = before * a if counts & goes_on else np.float32(0)
                    left = after if goes_on else np.float32(0)
                    state[T + i] = left if counts else before
                    state[R + i] += w * red
                    state[G + i] += w * green
                    state[B + i] += w * blue
                    state[Z + i] += w * z
                    state[A + i] += w
                    state[ROW_WEIGHTS + x] = w
                if cell > 0:
                    share = row_share[y - y0]
                    upper = CELL_ROWS + row_low[y - y0] * LANES
                    for x in range(LANES):
                        state[upper + x] += (np.float32(1) - share) * state[ROW_WEIGHTS + x]
                    if share > 0:
                        for x in range(LANES):
                            state[upper + LANES + x] += share * state[ROW_WEIGHTS + x]
            for cell_row in range(cell_first, cell_last):
                for c in range(n_cell_cols):
                    cell_sums[c] = 0
                base = CELL_ROWS + cell_row * LANES
                for x in range(columns):
                    w = state[base + x]
                    cell_sums[col_low[x]] += (np.float32(1) - col_share[x]) * w
                    cell_sums[col_low[x] + 1] += col_share[x] * w
                for c in range(n_cell_cols):
                    if cell_sums[c] > 0:
                        if hits == room:
                            hit_cells, hit_ranks, hit_weights = _grown(hit_cells, hit_ranks, hit_weights)
                            room *= 2
                        hit_cells[hits] = (first_cell_row + cell_row) * grid_cols + first_cell_col + c
                        hit_ranks[hits] = rank
                        hit_weights[hits] = cell_sums[c]
                        hits += 1
        for y in range(y1 - y0):
            for x in range(columns):
                i = y * LANES + x
                total = state[A + i]
                rest = np.float32(1) - total
                color[y0 + y, x0 + x, 0] = state[R + i] + rest * background[0]
                color[y0 + y, x0 + x, 1] = state[G + i] + rest * background[1]
                color[y0 + y, x0 + x, 2] = state[B + i] + rest * background[2]
                depth[y0 + y, x0 + x] = state[Z + i] / total if total > 0 else np.float32(0)
                alpha[y0 + y, x0 + x] = total
    return hit_cells[:hits], hit_ranks[:hits], hit_weights[:hits]
