"""Which splats touch which tile of the picture, front to back."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stage2_distill.gaussiancross.raster.projection import EXTENT_X, EXTENT_Y, MEAN_X, MEAN_Y

#: Edge of a tile in pixels. Distillation renders small pictures, in which large tiles would hold long lists.
TILE = 8


@njit(nogil=True, cache=True, error_model="numpy")
def tile_lists(splats: NDArray[np.floating], width: int, height: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lists per tile for depth-sorted splats [M, 13].

    Returns (start [tiles + 1], ranks [pairs]): tile t (row-major) holds splats ranks[start[t]:start[t + 1]]. A counting
    sort by tile leaves every list in depth order.
    """
    columns, rows = -(-width // TILE), -(-height // TILE)
    boxes = np.empty((len(splats), 4), np.int64)
    start = np.zeros(columns * rows + 1, np.int64)
    for i in range(len(splats)):
        s = splats[i]
        # clamped before the cast: a bound may be huge
        boxes[i, 0] = int(max(0.0, (s[MEAN_X] - s[EXTENT_X]) // TILE))
        boxes[i, 1] = int(min(float(columns), (s[MEAN_X] + s[EXTENT_X]) // TILE + 1))
        boxes[i, 2] = int(max(0.0, (s[MEAN_Y] - s[EXTENT_Y]) // TILE))
        boxes[i, 3] = int(min(float(rows), (s[MEAN_Y] + s[EXTENT_Y]) // TILE + 1))
        for y in range(boxes[i, 2], boxes[i, 3]):
            for x in range(boxes[i, 0], boxes[i, 1]):
                start[y * columns + x + 1] += 1
    start = np.cumsum(start)
    cursor = start[:-1].copy()
    ranks = np.empty(start[-1], np.int64)
    for i in range(len(splats)):
        for y in range(boxes[i, 2], boxes[i, 3]):
            for x in range(boxes[i, 0], boxes[i, 1]):
                tile = y * columns + x
                ranks[cursor[tile]] = i
                cursor[tile] += 1
    return start, ranks
