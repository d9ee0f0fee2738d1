"""Draw any per-Gaussian values of a scene: labels, features or heat, as sharp as the scene itself.

The values take the place of the colours in the CPU rasteriser, three channels at a time. Projection, order and tile
lists are made once.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from chorus_common.rasterize.blend import blend_tile_row
from chorus_common.rasterize.checks import checked_camera
from chorus_common.rasterize.cpu import visible_splats
from chorus_common.rasterize.lanes import LANES
from chorus_common.rasterize.splats import BLUE, RED
from chorus_common.rasterize.tiles import tile_lists
from chorus_common.runtime.errors import SceneError
from chorus_common.runtime.threads import default_threads, run_tasks
from chorus_common.scene import GaussianScene

F32 = NDArray[np.float32]


def render_values(
    scene: GaussianScene,
    viewmat: NDArray[np.floating],
    K: NDArray[np.floating],
    width: int,
    height: int,
    values: F32,
) -> tuple[F32, F32]:
    """Composite per-Gaussian values front to back, by the rule of rules.py.

    Args:
        viewmat [4, 4] world to camera (OpenCV axes), K [3, 3] intrinsics in pixels of a width x height picture.
        values [N, C]: what to draw in place of the colours; any C, any range.

    Returns (sum of weight x value [height, width, C] f32, alpha = sum of weights [height, width] f32). Divide by alpha
    for the mean value along a ray, or add (1 - alpha) x background.

    Raises SceneError for cameras that are not finite, empty pictures, or values that do not fit the scene.
    """
    view, intrinsics = checked_camera(scene, viewmat, K, width, height)
    if values.ndim != 2 or len(values) != len(scene):
        raise SceneError(f"scene {scene.name or '?'}: values must be [{len(scene)}, C], got {list(values.shape)}")
    threads = default_threads()
    splats, ids = visible_splats(scene, view, intrinsics, width, height, threads)
    start, ranks = tile_lists(splats, width, height, LANES)
    channels = values.shape[1]
    drawn = np.empty((height, width, channels), np.float32)
    color, depth = np.empty((height, width, 3), np.float32), np.empty((height, width), np.float32)
    alpha = np.empty((height, width), np.float32)
    black, names = np.zeros(3, np.float32), ids.astype(np.int32)
    for first in range(0, max(channels, 1), 3):  # once for alpha even where there are no channels
        count = min(3, channels - first)
        splats[:, RED : BLUE + 1] = 0
        splats[:, RED : RED + count] = values[ids, first : first + count]
        rows = [
            partial(blend_tile_row, row, LANES, splats, start, ranks, black, color, depth, alpha, names, 0, False)
            for row in range(-(-height // LANES))
        ]
        run_tasks(rows, threads)
        drawn[..., first : first + count] = color[..., :count]
    return drawn, alpha
