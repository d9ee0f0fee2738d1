"""What every rasteriser refuses, in one clear line."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chorus_common.lifting import CellGrid
from chorus_common.rasterize.lanes import LANES
from chorus_common.runtime.errors import ConfigError, SceneError
from chorus_common.scene import GaussianScene


def checked_camera(
    scene: GaussianScene, viewmat: NDArray[np.floating], K: NDArray[np.floating], width: int, height: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The camera as contiguous float64, or one clear line."""
    who = f"scene {scene.name or '?'}"
    view, intrinsics = np.ascontiguousarray(viewmat, np.float64), np.ascontiguousarray(K, np.float64)
    if view.shape != (4, 4) or intrinsics.shape != (3, 3):
        raise SceneError(f"{who}: camera needs viewmat [4, 4] and K [3, 3], got {view.shape} and {intrinsics.shape}")
    if not (np.isfinite(view).all() and np.isfinite(intrinsics).all()):
        raise SceneError(f"{who}: camera is not finite; remove that view")
    if intrinsics[0, 0] <= 0 or intrinsics[1, 1] <= 0:
        raise SceneError(f"{who}: focal lengths must be positive, got {intrinsics[0, 0]:g} and {intrinsics[1, 1]:g}")
    if width < 1 or height < 1:
        raise SceneError(f"{who}: picture size {width}x{height} is empty")
    return view, intrinsics


def checked_grid(grid: CellGrid | None, interpolation: str, width: int, height: int) -> None:
    """Raises ConfigError for an unknown interpolation, a grid of another picture or cells of a size that no tile can
    hold."""
    if interpolation not in ("nearest", "bilinear"):
        raise ConfigError(f"interpolation {interpolation!r} is unknown; use 'nearest' or 'bilinear'")
    if grid is None:
        return
    if (grid.width, grid.height) != (width, height):
        raise ConfigError(f"cell grid is made for {grid.width}x{grid.height} pictures, not {width}x{height}")
    if not 1 <= grid.cell <= LANES:
        raise ConfigError(f"cell size must lie in 1..{LANES} pixels, got {grid.cell}")
