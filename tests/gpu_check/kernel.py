"""The Triton kernel of cell weights by itself: how long a view takes for every number of cells per tile, and whether
another number of warps would do better.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from chorus_common.lifting import CellGrid
from data_manifests.synthetic import RoomOptions, generate_room
from tests.gpu_check.context import Context, median

WARPS = (1, 2, 4, 8)


def run(context: Context) -> None:
    """A row per cell size and number of warps."""
    if not context.cuda:
        context.add(note="the compiled kernel needs a card")
        return
    from chorus_common.rasterize import gsplat_cuda, tile_weights

    width, height = 640, 480
    room = generate_room(0, RoomOptions(gaussians=75_000, views=1, width=width, height=height))
    rasterizer = context.rasterizer()
    kernel, calls = tile_weights.tile_weights, []

    class Recorder:
        """Keeps the arguments of a launch."""

        def __getitem__(self, grid: Any) -> Any:
            return lambda *args, **constants: calls.append((grid, args, constants))

    for cell in (1, 2, 4, 8, 16):
        tile_weights.tile_weights = Recorder()
        try:
            rasterizer.render(
                room.scene, room.cameras.viewmats[0], room.cameras.intrinsics[0], width, height,
                grid=CellGrid(width, height, cell), interpolation="bilinear",
            )  # fmt: skip
        finally:
            tile_weights.tile_weights = kernel
        grid, args, constants = calls.pop()
        torch.cuda.synchronize()
        for warps in WARPS:
            context.check_time(2)
            launch = partial(kernel[grid], *args, **constants, num_warps=warps)
            seconds = median(context.seconds(launch, repeats=9, most=2))
            context.add(cell=cell, warps=warps, ms=1e3 * seconds, intersections=len(args[4]), tile=gsplat_cuda.TILE)
