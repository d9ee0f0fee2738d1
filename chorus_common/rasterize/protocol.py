"""What every rasteriser promises: one picture and, in the same pass, the blending weights per (cell, Gaussian)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from chorus_common.lifting import CellGrid, CellHits
from chorus_common.scene import GaussianScene

F32 = NDArray[np.float32]
Interpolation = Literal["nearest", "bilinear"]


@dataclass(frozen=True, eq=False)
class Rendered:
    """One view.

    color [H, W, 3] f32: sum w c + (1 - sum w) background.
    depth [H, W] f32: expected z distance in metres, sum w z / sum w; 0 where nothing was hit.
    alpha [H, W] f32: sum w = 1 - final transmittance.
    hits: weights summed per (cell, Gaussian), or None when no grid was asked for.
    """

    color: F32
    depth: F32
    alpha: F32
    hits: CellHits | None


class Rasterizer(Protocol):
    """Renders one view of a scene by the rule of rules.py, with the low-pass filter that the scene's `render_mode` asks
    for.
    """

    name: str

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
        """Render `scene` from a world-to-camera `viewmat` [4, 4] (OpenCV axes) with intrinsics `K` [3, 3] in pixels.

        With a `grid`, `Rendered.hits` holds the summed weights of every (cell, Gaussian) pair. interpolation="nearest"
        gives a pixel to the cell it lies in; interpolation="bilinear" splits it over the four nearest cell centres with
        the weights of bilinear upsampling (align_corners=False, clamped at the border), so that lifting through the
        matrix equals lifting upsampled features per pixel.

        Raises SceneError for cameras that are not finite or empty pictures, ConfigError for settings out of range.
        """
        ...
