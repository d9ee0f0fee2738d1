"""Which splats touch which tile, front to back.

Splats are sorted by depth once; a stable counting sort by tile then leaves every tile's list in depth order, so no
(tile, depth) pairs are sorted. A tile is listed only if the ellipse alpha = 1/255 itself reaches into it, which for
thin slanted Gaussians saves most of the box.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chorus_common.rasterize.splats import (
    COLUMN_SLOPE,
    EXTENT_X,
    EXTENT_Y,
    HEIGHT_RATIO,
    MEAN_X,
    MEAN_Y,
    ROW_SLOPE,
    WIDTH_RATIO,
)  # fmt: skip

#: Pixels added to every analytic bound, so that rounding never loses a pixel; the blending rule itself decides.
SLACK = np.float32(0.02)
#: An end of a chord that loses every comparison.
NOTHING = np.float32(1e30)


@njit(nogil=True, cache=True, error_model="numpy")
def depth_order(depth_bits: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Stable order by positive float32 depths given as their bit patterns [M] (which sort alike): radix sort, 3
    digits of 11 bits."""
    m = len(depth_bits)
    order = np.arange(m)
    other = np.empty(m, np.int64)
    start = np.empty(2049, np.int64)
    for digit in range(3):
        shift = np.uint32(11 * digit)
        for b in range(len(start)):
            start[b] = 0
        for i in range(m):
            start[((depth_bits[i] >> shift) & np.uint32(2047)) + 1] += 1
        for b in range(2048):
            start[b + 1] += start[b]
        for j in range(m):
            i = order[j]
            bucket = (depth_bits[i] >> shift) & np.uint32(2047)
            other[start[bucket]] = i
            start[bucket] += 1
        order, other = other, order
    return order


@njit(nogil=True, cache=True, error_model="numpy")
def _chord(
    mean: np.float32,
    extent: np.float32,
    across: np.float32,
    slope_back: np.float32,
    slope: np.float32,
    ratio: np.float32,
    low: np.float32,
    high: np.float32,
) -> tuple[np.float32, np.float32]:
    """Range that an ellipse covers along one axis inside the strip low..high of the other axis (relative to the mean
    of that other axis).

    extent, across: half widths along this axis and the other; slope: this per other (b / var_other); slope_back:
    other per this; ratio: sqrt(det) / var_other.

    Both candidates for an end are computed and compared: a branch here is taken at random, and a wrong guess costs more
    than the square root.
    """
    tip = slope_back * extent  # where on the other axis the ellipse reaches `extent`; -tip for the opposite end
    at = min(max(tip, low), high)
    cut = slope * at + ratio * np.sqrt(max(across * across - at * at, np.float32(0)))
    whole = extent if at == tip else -NOTHING
    top = cut if cut > whole else whole
    at = min(max(-tip, low), high)
    cut = slope * at - ratio * np.sqrt(max(across * across - at * at, np.float32(0)))
    whole = -extent if at == -tip else NOTHING
    bottom = cut if cut < whole else whole
    return mean + bottom - SLACK, mean + top + SLACK


@njit(nogil=True, cache=True, error_model="numpy")
def _first_pixel(bound: np.float32, limit: int) -> int:
    """First pixel, clamped to [0, limit], whose centre is at or beyond `bound`. Clamps before the cast: bounds may be
    huge."""
    return int(min(max(np.ceil(bound - np.float32(0.5)), np.float32(0)), np.float32(limit)))


@njit(nogil=True, cache=True, error_model="numpy")
def rows_in_strip(splat: NDArray[np.float32], x0: int, x1: int, y0: int, y1: int) -> tuple[int, int]:
    """Pixel rows [first, last) within y0..y1 in which the splat [16] reaches a pixel centre of columns x0..x1-1."""
    mx = splat[MEAN_X]
    low, high = np.float32(x0) + np.float32(0.5) - mx, np.float32(x1) - np.float32(0.5) - mx
    top, bottom = _chord(
        splat[MEAN_Y],
        splat[EXTENT_Y],
        splat[EXTENT_X],
        splat[ROW_SLOPE],
        splat[COLUMN_SLOPE],
        splat[HEIGHT_RATIO],
        low,
        high,
    )
    return max(y0, _first_pixel(top, y1)), min(y1, _first_pixel(bottom, y1))


@njit(nogil=True, cache=True, error_model="numpy")
def columns_of_box(splat: NDArray[np.float32], x0: int, x1: int) -> tuple[int, int]:
    """Pixel columns [first, last) within x0..x1 of the box around the splat [16]; first lies in x0..x1-1 even if the
    box does not."""
    reach = splat[EXTENT_X] + SLACK
    return min(max(x0, _first_pixel(splat[MEAN_X] - reach, x1)), x1 - 1), _first_pixel(splat[MEAN_X] + reach, x1)


@njit(nogil=True, cache=True, error_model="numpy")
def _columns_in_strip(splat: NDArray[np.float32], y0: int, y1: int, width: int) -> tuple[int, int]:
    """Pixel columns [first, last) of the picture in which the splat reaches a pixel centre of rows y0..y1-1."""
    my = splat[MEAN_Y]
    low, high = np.float32(y0) + np.float32(0.5) - my, np.float32(y1) - np.float32(0.5) - my
    left, right = _chord(
        splat[MEAN_X],
        splat[EXTENT_X],
        splat[EXTENT_Y],
        splat[COLUMN_SLOPE],
        splat[ROW_SLOPE],
        splat[WIDTH_RATIO],
        low,
        high,
    )
    return _first_pixel(left, width), _first_pixel(right, width)


@njit(nogil=True, cache=True, error_model="numpy")
def tile_lists(
    splats: NDArray[np.float32], width: int, height: int, tile: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Lists of splats per tile for depth-sorted `splats` [M, 16].

    Returns (start [tiles + 1] i64, ranks [pairs] i32): tile t (row-major) is touched by splats ranks[start[t]:start[t
    + 1]], front to back.
    """
    tile_cols, tile_rows = -(-width // tile), -(-height // tile)
    m = len(splats)
    start = np.zeros(tile_cols * tile_rows + 1, np.int64)
    # One (tile row, first tile, last tile) triple per splat and tile row, found once and used to count and to fill.
    span_start = np.empty(m + 1, np.int64)
    span_start[0] = 0
    for i in range(m):
        first = _first_pixel(splats[i, MEAN_Y] - splats[i, EXTENT_Y] - SLACK, height)
        last = _first_pixel(splats[i, MEAN_Y] + splats[i, EXTENT_Y] + SLACK, height)
        span_start[i + 1] = span_start[i] + (-(-last // tile) - first // tile if last > first else 0)
    spans = np.empty((span_start[m], 3), np.int32)
    for i in range(m):
        first = _first_pixel(splats[i, MEAN_Y] - splats[i, EXTENT_Y] - SLACK, height) // tile
        for k in range(span_start[i], span_start[i + 1]):
            row = first + k - span_start[i]
            left, right = _columns_in_strip(splats[i], row * tile, min((row + 1) * tile, height), width)
            t0, t1 = left // tile, -(-right // tile)
            if right <= left:
                t1 = t0
            spans[k, 0], spans[k, 1], spans[k, 2] = row, t0, t1
            for t in range(t0, t1):
                start[row * tile_cols + t + 1] += 1
    for t in range(tile_cols * tile_rows):
        start[t + 1] += start[t]
    cursor = np.empty(tile_cols * tile_rows, np.int64)
    for t in range(len(cursor)):
        cursor[t] = start[t]
    ranks = np.empty(start[-1], np.int32)
    for i in range(m):
        for k in range(span_start[i], span_start[i + 1]):
            base = spans[k, 0] * tile_cols
            for t in range(spans[k, 1], spans[k, 2]):
                ranks[cursor[base + t]] = i
                cursor[base + t] += 1
    return start, ranks
