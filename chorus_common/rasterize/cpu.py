"""The CPU rasteriser: project, sort by depth, list per tile, blend row of tiles by row of tiles on plain threads.

Same input, same bytes, whatever the number of threads and whatever the grid: every pixel is blended by one task in
depth order, and ties in depth are broken by the Gaussian's index.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from chorus_common.lifting import CellGrid, CellHits
from chorus_common.rasterize.blend import blend_tile_row
from chorus_common.rasterize.checks import checked_camera, checked_grid
from chorus_common.rasterize.hits import join_sorted
from chorus_common.rasterize.lanes import LANES
from chorus_common.rasterize.protocol import Interpolation, Rendered
from chorus_common.rasterize.rules import low_pass
from chorus_common.rasterize.splats import DEPTH, SPLAT_WIDTH, project
from chorus_common.rasterize.tiles import depth_order, tile_lists
from chorus_common.runtime.threads import default_threads, run_tasks, split_range
from chorus_common.scene import GaussianScene


class CpuRasterizer:
    """`Rasterizer` on the CPU. `threads`: kernels run on this many threads (default: NUMBA_NUM_THREADS or all cores
    of the process)."""

    name = "cpu"

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads

    def render(
        self,
        scene: GaussianScene,
        viewmat: NDArray[np.floating],
        K: NDArray[np.floating],
        width: int,
        height: int,
        *,
        grid: CellGrid | None = None,
        interpolation: Interpolation = "nearest",
        background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Rendered:
        """See `protocol.Rasterizer.render`."""
        view, intrinsics = checked_camera(scene, viewmat, K, width, height)
        checked_grid(grid, interpolation, width, height)
        threads = self.threads if self.threads is not None else default_threads()
        splats, ids = visible_splats(scene, view, intrinsics, width, height, threads)

        cell = grid.cell if grid is not None else 0
        tile = LANES // cell * cell if cell else LANES  # whole cells per tile
        start, ranks = tile_lists(splats, width, height, tile)
        color = np.empty((height, width, 3), np.float32)
        depth = np.empty((height, width), np.float32)
        alpha = np.empty((height, width), np.float32)
        back = np.asarray(background, np.float32)
        bilinear = grid is not None and interpolation == "bilinear"
        names = ids.astype(np.int32)
        tasks = [
            partial(blend_tile_row, row, tile, splats, start, ranks, back, color, depth, alpha, names, cell, bilinear)
            for row in range(-(-height // tile))
        ]
        parts = run_tasks(tasks, threads)
        return Rendered(color, depth, alpha, CellHits(*join_sorted(parts)) if grid is not None else None)


def visible_splats(
    scene: GaussianScene,
    viewmat: NDArray[np.float64],
    intrinsics: NDArray[np.float64],
    width: int,
    height: int,
    threads: int = 1,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Splats [M, 16] of the Gaussians inside the picture, front to back, and their ids [M]; see splats.py."""
    n, filtered = len(scene), low_pass(scene)
    splats = np.empty((n, SPLAT_WIDTH), np.float32)
    ids = np.empty(n, np.int64)
    ranges = split_range(n, 4 * threads)
    columns = (scene.means, scene.quats, scene.scales, scene.opacities, scene.colors)
    camera = (viewmat, intrinsics, width, height)
    counts = run_tasks(
        [
            partial(project, *columns, *camera, filtered.eps2d, filtered.compensated, a, b, splats, ids)
            for a, b in ranges
        ],
        threads,
    )
    kept = np.concatenate([np.arange(a, a + m) for (a, _), m in zip(ranges, counts)] or [np.zeros(0, np.int64)])
    kept = kept[depth_order(splats[kept, DEPTH].view(np.uint32))]
    return splats[kept], ids[kept]
