"""The picture that a pinhole would have taken, from one that a lens has bent."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from chorus_common.camera_io.lens import Lens

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def undistort(picture: NDArray[np.uint8], intrinsics: F64, lens: Lens) -> tuple[F32, NDArray[np.bool_]]:
    """Colour [H, W, 3] f32 in [0, 1] of a pinhole with the same `intrinsics` [3, 3] and size, bilinear; and which of
    its pixels [H, W] the picture [H, W, 3] u8 shows. The others are 0.
    """
    height, width = picture.shape[:2]
    place = _places(width, height, *(float(intrinsics[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))), lens)
    # half a pixel beyond the outer centres is still the outer pixel
    u, v = place[..., 0], place[..., 1]
    known: NDArray[np.bool_] = (u >= -0.5) & (u <= width - 0.5) & (v >= -0.5) & (v <= height - 0.5)
    u = np.clip(np.where(known, u, 0.0), 0, width - 1)
    v = np.clip(np.where(known, v, 0.0), 0, height - 1)
    left, top = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    right, below = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    a, b = (u - left).astype(np.float32)[..., None], (v - top).astype(np.float32)[..., None]
    values = picture.astype(np.float32) / 255
    upper = values[top, left] * (1 - a) + values[top, right] * a
    lower = values[below, left] * (1 - a) + values[below, right] * a
    color = upper * (1 - b) + lower * b
    return np.where(known[..., None], color, 0).astype(np.float32), known


@lru_cache(maxsize=4)
def _places(width: int, height: int, fx: float, fy: float, cx: float, cy: float, lens: Lens) -> F64:
    """Where in the bent picture each pinhole pixel lies [H, W, 2], in pixels with centres at whole numbers; views share
    a camera as a rule.
    """
    x = (np.arange(width) + 0.5 - cx) / fx
    y = (np.arange(height) + 0.5 - cy) / fy
    rays = np.stack(np.broadcast_arrays(x[None, :], y[:, None]), axis=-1)
    bent = lens.distort(rays.astype(np.float64))
    place: F64 = bent * np.array([fx, fy]) + np.array([cx, cy]) - 0.5
    place.setflags(write=False)
    return place
