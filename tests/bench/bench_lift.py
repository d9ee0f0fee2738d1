"""Lifting 768 channels of two 640x480 views of one scene: the lifting index against the same sum taken pixel by pixel.

The baseline is the all-contributors formula of the peers, f_i = sum over pixels u of w_i(u) F_u: it walks every
(pixel, Gaussian) pair that blends and adds w F_u to the Gaussian's row. It is compiled, tile-parallel on the same
threads, keeps a tile's sums in cache, and reads the weights from a list made beforehand: rasterisation is charged to
neither side. F_u is the patch's feature (nearest upsampling), so the two results are equal up to rounding.
"""

from __future__ import annotations

import time
from functools import partial

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chorus_common.lifting import CellGrid, LiftingIndex
from chorus_common.rasterize import get_backend
from chorus_common.runtime.threads import default_threads, run_tasks
from tests.bench.bench_rasterise import COMMAND, TILE, room_view
from tests.bench.measure import interleaved
from tests.bench.row import Row

CHANNELS = 768


@njit(nogil=True, error_model="numpy", fastmath={"contract"})
def lift_tile_row(
    row: int,
    width: int,
    height: int,
    pixel_start: NDArray[np.int64],
    ids: NDArray[np.int32],
    weights: NDArray[np.float32],
    features: NDArray[np.float32],
    n: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """(Gaussians [G], sums [G, C]) of one row of tiles: sums over its pixels of weight times the feature of the
    pixel's patch."""
    cols = -(-width // TILE)
    place = np.full(n, -1, np.int32)
    touched = np.empty(n, np.int32)
    count = 0
    for y in range(row * TILE, min((row + 1) * TILE, height)):
        for k in range(pixel_start[y * width], pixel_start[(y + 1) * width]):
            if place[ids[k]] < 0:
                place[ids[k]] = count
                touched[count] = ids[k]
                count += 1
    sums = np.zeros((count, features.shape[1]), np.float32)
    for col in range(cols):  # tile by tile, so that its feature and its Gaussians' sums stay in cache
        f = features[row * cols + col]
        for y in range(row * TILE, min((row + 1) * TILE, height)):
            for u in range(y * width + col * TILE, y * width + min((col + 1) * TILE, width)):
                for k in range(pixel_start[u], pixel_start[u + 1]):
                    out, w = sums[place[ids[k]]], weights[k]
                    for c in range(features.shape[1]):
                        out[c] += w * f[c]
    return touched[:count], sums


def lift_per_pixel(
    pixel_start: NDArray[np.int64],
    ids: NDArray[np.int32],
    weights: NDArray[np.float32],
    features: NDArray[np.float32],
    width: int,
    height: int,
    n: int,
) -> NDArray[np.float32]:
    """Sums [N, C] over all pixels."""
    tasks = [
        partial(lift_tile_row, row, width, height, pixel_start, ids, weights, features, n)
        for row in range(-(-height // TILE))
    ]
    total = np.zeros((n, features.shape[1]), np.float32)
    for touched, sums in run_tasks(tasks, default_threads()):
        total[touched] += sums
    return total


def rows() -> list[Row]:
    scene, viewmat, K, width, height = room_view()
    grid = CellGrid(width, height, TILE)
    pairs, cells = [], []
    for step in (0.0, 0.3):  # metres to the side
        moved = viewmat.copy()
        moved[0, 3] += step
        render = partial(get_backend("cpu").render, scene, moved, K, width, height)
        pixel_hits, cell_hits = render(grid=CellGrid(width, height, 1)).hits, render(grid=grid).hits
        assert pixel_hits is not None
        assert cell_hits is not None
        start = np.searchsorted(pixel_hits.cells, np.arange(width * height + 1))
        pairs.append((start, pixel_hits.gaussian_ids, pixel_hits.weights))
        cells.append(cell_hits)
    index = LiftingIndex.build(cells, scene.means, grid)
    features = np.random.default_rng(0).normal(size=(index.n_columns, CHANNELS)).astype(np.float32)

    def per_pixel() -> NDArray[np.float32]:
        maps = np.split(features, len(pairs))
        return np.sum([lift_per_pixel(*p, f, width, height, len(scene)) for p, f in zip(pairs, maps)], axis=0)

    lift_per_pixel(np.zeros(2, np.int64), pairs[0][1][:0], pairs[0][2][:0], features, 1, 1, 1)  # compile
    want = per_pixel()
    if not np.allclose(index.lift(features)[0], want[index.order], atol=2e-3, rtol=2e-3):
        raise AssertionError("lifting from the index and pixel by pixel disagree")
    baseline = (
        f"all-contributors sum over {sum(len(p[1]) for p in pairs) / 1e6:.0f} M (pixel, Gaussian) pairs, same threads"
    )
    times = interleaved(partial(index.lift, features), per_pixel, rounds=3, repeats=20, clock=time.perf_counter)
    return [times.row("lift/index-vs-pixels", "s (ratio = times faster)", COMMAND, baseline, times_faster=True)]
