"""Front-to-back blending of one row of tiles: colour, depth, alpha and the weights per (cell, Gaussian), in one pass.

The rule stands in rules.py, points 3 and 4; the arithmetic of a row of pixels is in lanes.py.

How it is fast: a tile is at most 16 pixels wide and all its state lies in one flat float32 buffer with 16 lanes per
row. Splats are taken 16 at a time: first the rows and columns that each of them reaches, then the blending, so that the
processor waits for memory and square roots of all 16 at once. Rows that the ellipse misses inside the tile are never
visited.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chorus_common.rasterize.hits import sort_and_merge
from chorus_common.rasterize.lanes import LANES, PLANE, PLANES, blend_rows
from chorus_common.rasterize.tiles import columns_of_box, rows_in_strip

#: Indices into the state are unsigned: numba then drops its wrap-around for negative indices, without which nothing
#: is vectorised. Signed and unsigned must not be mixed in one expression (numba makes floats of that), hence the
#: second set of names.
U = np.uint64
U_LANES = U(LANES)

#: Planes of the tile's state buffer, each LANES x LANES (see lanes.py).
T, R, G, B, Z = (U(k * PLANE) for k in range(PLANES))
CELL_ROWS = PLANES * PLANE  # per row of cells that the tile touches: weights summed over its pixel rows
STATE_SIZE = CELL_ROWS + (LANES + 3) * LANES

#: Splats whose reach is found together.
BATCH = 16


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
    grid_cols, most = 0, 0
    if cell > 0:
        grid_cols = -(-width // cell)
        most = BATCH * (-(-tile // cell) + 2) ** 2  # cells that a batch can touch
        room = most + 2 * (start[(tile_row + 1) * tile_cols] - start[tile_row * tile_cols])
    hit_cells, hit_ids, hit_weights = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.float32)
    first_cell_row, row_low, row_share = interpolation_table(
        y0, y1 - y0, max(cell, 1), -(-height // max(cell, 1)), bilinear
    )
    half = np.float32(0.5)
    reach = 2 if bilinear else 1  # cells per axis that a pixel is shared over
    col_shares = np.empty((LANES + 3) * LANES, np.float32)
    row_shares = np.zeros(2 * LANES, np.float32)  # what a pixel row gives to its cell row and to the next
    row_end = np.empty(LANES, np.int64)  # one past the last pixel row of the same cell row
    for y in range(y1 - y0 - 1, -1, -1):
        row_shares[y], row_shares[y + LANES] = np.float32(1) - row_share[y], row_share[y]
        row_end[y] = row_end[y + 1] if y + 1 < y1 - y0 and row_low[y + 1] == row_low[y] else y + 1
    splats_of = np.empty(BATCH, np.int64)
    firsts, lasts, lefts, rights = (
        np.empty(BATCH, np.int64),
        np.empty(BATCH, np.int64),
        np.empty(BATCH, np.int64),
        np.empty(BATCH, np.int64),
    )

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
        lane_x, lane_y = np.float32(x0) + half, np.float32(y0) + half
        t = tile_row * tile_cols + tile_col
        for batch in range(start[t], start[t + 1], BATCH):
            # forget rows at the tile's top and bottom that have stopped altogether
            while live_first < live_last and not _row_is_live(state, U((live_first - y0) * LANES)):
                live_first += 1
            while live_last > live_first and not _row_is_live(state, U((live_last - 1 - y0) * LANES)):
                live_last -= 1
            if live_first == live_last:
                break
            while room - hits < most:
                hit_cells, hit_ids, hit_weights = _grown(hit_cells, hit_ids, hit_weights)
                room *= 2
            size = min(BATCH, start[t + 1] - batch)
            for j in range(size):
                splats_of[j] = ranks[batch + j]
                splat = splats[splats_of[j]]
                firsts[j], lasts[j] = rows_in_strip(splat, x0, x1, live_first, live_last)
                if cell > 0:
                    lefts[j], rights[j] = columns_of_box(splat, x0, x1)
            for j in range(size):
                first, last = firsts[j] - y0, lasts[j] - y0
                if first >= last:
                    continue
                splat = splats[splats_of[j]]
                if cell == 0:
                    blend_rows(state, splat, U(first), U(last), lane_x, lane_y, row_shares, U(CELL_ROWS), True)
                    continue
                cell_first, cell_last = row_low[first], row_low[last - 1] + reach
                y = first
                while y < last:
                    end = min(row_end[y], last)
                    into = U(CELL_ROWS + row_low[y] * LANES)
                    blend_rows(state, splat, U(y), U(end), lane_x, lane_y, row_shares, into, y == first)
                    y = end
                left, right = lefts[j], rights[j]
                column_first, column_last = col_low[left - x0], col_low[max(left, right - 1) - x0] + reach
                for cell_row in range(cell_first, cell_last):
                    first_of_row = (first_cell_row + cell_row) * grid_cols + first_cell_col
                    for c in range(column_first, column_last):
                        w = _weighted_sum(state, U(CELL_ROWS + cell_row * LANES), col_shares, U(c * LANES))
                        if w > 0:
                            hit_cells[hits] = first_of_row + c
                            hit_ids[hits] = ids[splats_of[j]]
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
