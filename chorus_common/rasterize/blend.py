"""Front-to-back blending of one row of tiles: colour, depth, alpha and the weights per (cell, Gaussian), in one pass.

The rule stands in rules.py, points 3 and 4.

How it is fast: a tile is at most 16 pixels wide and all its state lies in one flat float32 buffer with 16 lanes per
row, so that the inner loop is 16 independent lanes without branches, which the compiler turns into vector code. Rows
that the ellipse misses inside the tile are never visited.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chorus_common.rasterize import rules
from chorus_common.rasterize.hits import sort_and_merge
from chorus_common.rasterize.splats import (
    BLUE,
    DEPTH,
    GREEN,
    MEAN_X,
    MEAN_Y,
    OPACITY,
    RED,
    ROW_CURVATURE,
    ROW_SIGMA,
    ROW_SLOPE,
)  # fmt: skip
from chorus_common.rasterize.tiles import columns_of_box, rows_in_strip

LANES = 16
#: Indices into the state are unsigned: numba then drops its wrap-around for negative indices, without which nothing
#: is vectorised. Signed and unsigned must not be mixed in one expression (numba makes floats of that), hence the
#: second set of names.
U = np.uint64
U_LANES = U(LANES)
MAX_ALPHA = np.float32(rules.MAX_ALPHA)
MIN_ALPHA = np.float32(rules.MIN_ALPHA)
MIN_TRANSMITTANCE = np.float32(rules.MIN_TRANSMITTANCE)
#: exp is only needed where alpha can reach 1/255, that is on [-5.55, 0].
MAX_SIGMA = np.float32(5.6)

#: Planes of the tile's state buffer, each LANES x LANES: transmittance, colour, depth. A stopped
#: pixel keeps its transmittance with the sign flipped: any further step leaves it negative, so it takes no weight and
#: needs no flag.
PLANE = LANES * LANES
T, R, G, B, Z = (U(k * PLANE) for k in range(5))
ROW_WEIGHTS = U(5 * PLANE)  # weights of the current row
CELL_ROWS = 5 * PLANE + LANES  # per row of cells that the tile touches: weights summed over its pixel rows
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


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"}, inline="always")
def _blend_row(
    state: NDArray[np.float32], row: int, splat: NDArray[np.float32], x0: np.float32, y0: np.float32, into: int,
    keep: np.float32,
) -> None:  # fmt: skip
    """Blend one splat into the 16 lanes of one pixel row.

    row: first lane in each plane; x0, y0: centre of lane 0 in the picture, px; the row's weights go to the 16 places
    from `into` on, added to `keep` (0 or 1) times what is there. row and into are unsigned. Distances are formed from
    whole-picture coordinates, so that a pixel's bits do not depend on where tiles lie.
    """
    dy = y0 - splat[MEAN_Y]
    row_sigma = dy * dy * splat[ROW_SIGMA]  # at the row's nearest point, which is row_x
    row_x = splat[MEAN_X] + dy * splat[ROW_SLOPE]
    opacity, curvature, z = splat[OPACITY], splat[ROW_CURVATURE], splat[DEPTH]
    red, green, blue = splat[RED], splat[GREEN], splat[BLUE]
    for x in range(U_LANES):
        i = row + x
        dx = (np.float32(x) + x0) - row_x
        a = opacity * exp_neg(row_sigma + curvature * dx * dx)
        a = a if a < MAX_ALPHA else MAX_ALPHA
        before = state[T + i]
        after = before - before * a
        counts = a >= MIN_ALPHA
        goes_on = after > MIN_TRANSMITTANCE
        w = before * a if goes_on else np.float32(0)
        w = w if counts else np.float32(0)
        stopped = before if before < 0 else -before
        left = after if goes_on else stopped
        state[T + i] = left if counts else before
        state[R + i] += w * red
        state[G + i] += w * green
        state[B + i] += w * blue
        state[Z + i] += w * z
        state[into + x] = w + keep * state[into + x]


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def _add_row_weights(state: NDArray[np.float32], cell_row: int, share: np.float32) -> None:
    """Add share times the current row's weights to the row of cells that starts at `cell_row` (unsigned)."""
    for x in range(U_LANES):
        state[cell_row + x] += share * state[ROW_WEIGHTS + x]


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def _weighted_sum(state: NDArray[np.float32], at: int, shares: NDArray[np.float32], share_at: int) -> np.float32:
    """Sum of 16 lanes of state times 16 lanes of shares (unsigned starts), in a fixed tree of additions so that no
    machine reorders it."""
    s0, s1, s2, s3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for k in range(U(0), U_LANES, U(4)):
        s0 += state[at + k] * shares[share_at + k]
        s1 += state[at + k + U(1)] * shares[share_at + k + U(1)]
        s2 += state[at + k + U(2)] * shares[share_at + k + U(2)]
        s3 += state[at + k + U(3)] * shares[share_at + k + U(3)]
    return (s0 + s1) + (s2 + s3)


@njit(nogil=True, cache=True, error_model="numpy")
def _row_is_live(state: NDArray[np.float32], row: int) -> bool:
    """Whether any lane of the row can still take weight."""
    for x in range(U_LANES):  # noqa: SIM110 (generators do not compile)
        if state[T + row + x] > 0:
            return True
    return False


@njit(nogil=True, cache=True, error_model="numpy")
def interpolation_table(
    begin: int, count: int, cell: int, n_cells: int, bilinear: bool
) -> tuple[int, NDArray[np.int64], NDArray[np.float32]]:
    """How `count` pixels from `begin` on are shared out over cells along one axis.

    Returns (first cell, low [count], share [count]): pixel begin + k gives 1 - share[k] to cell first + low[k] and
    share[k] to the one after.
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
    cells: NDArray[np.int32], ids: NDArray[np.int32], weights: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """The same three buffers with twice the room."""
    n = len(cells)
    more_cells, more_ids, more_weights = (
        np.empty(2 * n, np.int32),
        np.empty(2 * n, np.int32),
        np.empty(2 * n, np.float32),
    )
    for i in range(n):
        more_cells[i], more_ids[i], more_weights[i] = cells[i], ids[i], weights[i]
    return more_cells, more_ids, more_weights


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
    ids: NDArray[np.int32],
    cell: int,
    bilinear: bool,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """Blend one row of tiles into color [H, W, 3], depth [H, W], alpha [H, W]; cell = 0 leaves the hits out (bilinear
    must then be False).

    splats [M, 16] sorted by depth, start and ranks from `tile_lists`.
    ids [M] i32: the Gaussian behind each splat.
    Returns the row's hits (cells, gaussian ids, weights), sorted by (cell, id), each pair once.
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
    hit_cells, hit_ids, hit_weights = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.float32)
    first_cell_row, row_low, row_share = interpolation_table(
        y0, y1 - y0, max(cell, 1), -(-height // max(cell, 1)), bilinear
    )
    half = np.float32(0.5)
    keep = np.float32(0) if bilinear or cell == 0 else np.float32(1)  # nearest: rows of a cell add up in place
    reach = 2 if bilinear else 1  # cells per axis that a pixel is shared over
    col_shares = np.empty((LANES + 3) * LANES, np.float32)

    for tile_col in range(tile_cols):
        x0, x1 = tile_col * tile, min((tile_col + 1) * tile, width)
        columns = x1 - x0
        first_cell_col, col_low, col_share = interpolation_table(
            x0, columns, max(cell, 1), -(-width // max(cell, 1)), bilinear
        )
        for i in range(len(col_shares)):
            col_shares[i] = 0
        for x in range(columns):
            col_shares[col_low[x] * LANES + x] = np.float32(1) - col_share[x]
            col_shares[(col_low[x] + 1) * LANES + x] = col_share[x]
        for i in range(STATE_SIZE):
            state[i] = 0
        for y in range(y1 - y0):  # lanes beyond the picture start stopped
            for x in range(columns):
                state[T + U(y * LANES + x)] = 1
        live_first, live_last = y0, y1
        t = tile_row * tile_cols + tile_col
        for k in range(start[t], start[t + 1]):
            if (k - start[t]) % 16 == 0:  # forget rows at the tile's top and bottom that have stopped altogether
                while live_first < live_last and not _row_is_live(state, U((live_first - y0) * LANES)):
                    live_first += 1
                while live_last > live_first and not _row_is_live(state, U((live_last - 1 - y0) * LANES)):
                    live_last -= 1
                if live_first == live_last:
                    break
            rank = ranks[k]
            splat = splats[rank]
            first, last = rows_in_strip(splat, x0, x1, live_first, live_last)
            if first >= last:
                continue
            cell_first, cell_last = 0, 0
            if cell > 0:
                cell_first, cell_last = row_low[first - y0], row_low[last - 1 - y0] + reach
                for i in range(CELL_ROWS + cell_first * LANES, CELL_ROWS + cell_last * LANES):
                    state[i] = 0
            for y in range(first, last):
                row = U((y - y0) * LANES)
                lane_x, lane_y = np.float32(x0) + half, np.float32(y) + half
                at = CELL_ROWS + row_low[y - y0] * LANES
                into = ROW_WEIGHTS if bilinear or cell == 0 else U(at)
                _blend_row(state, row, splat, lane_x, lane_y, into, keep)
                if bilinear:
                    share = row_share[y - y0]
                    _add_row_weights(state, U(at), np.float32(1) - share)
                    if share > 0:
                        _add_row_weights(state, U(at + LANES), share)
            if cell_first < cell_last:
                left, right = columns_of_box(splat, x0, x1)
                column_first, column_last = col_low[left - x0], col_low[max(left, right - 1) - x0] + reach
                while room - hits < (cell_last - cell_first) * (column_last - column_first):
                    hit_cells, hit_ids, hit_weights = _grown(hit_cells, hit_ids, hit_weights)
                    room *= 2
                for cell_row in range(cell_first, cell_last):
                    first_of_row = (first_cell_row + cell_row) * grid_cols + first_cell_col
                    for c in range(column_first, column_last):
                        w = _weighted_sum(state, U(CELL_ROWS + cell_row * LANES), col_shares, U(c * LANES))
                        if w > 0:
                            hit_cells[hits] = first_of_row + c
                            hit_ids[hits] = ids[rank]
                            hit_weights[hits] = w
                            hits += 1
        for y in range(y1 - y0):
            for x in range(columns):
                at_pixel = U(y * LANES + x)
                rest = abs(state[T + at_pixel])
                total = np.float32(1) - rest
                color[y0 + y, x0 + x, 0] = state[R + at_pixel] + rest * background[0]
                color[y0 + y, x0 + x, 1] = state[G + at_pixel] + rest * background[1]
                color[y0 + y, x0 + x, 2] = state[B + at_pixel] + rest * background[2]
                depth[y0 + y, x0 + x] = state[Z + at_pixel] / total if total > 0 else np.float32(0)
                alpha[y0 + y, x0 + x] = total
    return sort_and_merge(hit_cells[:hits], hit_ids[:hits], hit_weights[:hits])
