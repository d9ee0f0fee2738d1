"""Pictures of one pinhole camera as another one at the same place would have taken them.

Both cameras look the same way, so a target pixel is an axis-aligned rectangle of the source picture and each axis can
be treated on its own. Colour is averaged over the rectangle, which is what a coarser sensor does; depth is taken at its
centre, because an average over an edge is a depth at which nothing is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#: A target pixel is known where at least this share of it lies inside the source picture.
KNOWN_SHARE = 0.5


def resample_color(
    picture: NDArray[np.uint8] | F32, source: F64, target: F64, width: int, height: int
) -> tuple[F32, NDArray[np.bool_]]:
    """Colour [height, width, 3] f32 in [0, 1] and which pixels [height, width] are known; the others are 0.

    Args:
        picture: [H, W, 3], u8 or in [0, 1]. source, target: intrinsics [3, 3] of the two pictures.
    """
    values = picture.astype(np.float32) / 255 if picture.dtype == np.uint8 else picture.astype(np.float32)
    across = _overlaps(source[0, 0], source[0, 2], values.shape[1], target[0, 0], target[0, 2], width)
    down = _overlaps(source[1, 1], source[1, 2], values.shape[0], target[1, 1], target[1, 2], height)
    known = np.outer(down.sum(1), across.sum(1)) >= KNOWN_SHARE
    total = np.einsum("hy,yxc->hxc", down, values, optimize=True)
    total = np.einsum("wx,hxc->hwc", across, total, optimize=True)
    share = np.outer(down.sum(1), across.sum(1)).astype(np.float32)
    color = total / np.maximum(share, 1e-6)[..., None]
    return np.where(known[..., None], color, 0).astype(np.float32), known


def resample_depth(depth: F32, source: F64, target: F64, width: int, height: int) -> F32:
    """Depth [height, width] f32 at the target's pixel centres; 0 where the source has none.

    Args:
        depth: [H, W] metres along z, 0 = unknown.
    """
    x = _nearest(source[0, 0], source[0, 2], target[0, 0], target[0, 2], width)
    y = _nearest(source[1, 1], source[1, 2], target[1, 1], target[1, 2], height)
    inside = ((y >= 0) & (y < depth.shape[0]))[:, None] & ((x >= 0) & (x < depth.shape[1]))[None]
    picked = depth[np.clip(y, 0, depth.shape[0] - 1)[:, None], np.clip(x, 0, depth.shape[1] - 1)[None]]
    return np.where(inside, picked, 0).astype(np.float32)


def _overlaps(f: float, c: float, n: int, target_f: float, target_c: float, count: int) -> F32:
    """Share [count, n] of each target pixel that each source pixel covers, along one axis."""
    edges = (np.arange(count + 1) - target_c) * f / target_f + c  # of the target's pixels, in source pixels
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(n)[None]
    overlap = np.minimum(high, pixel + 1) - np.maximum(low, pixel)
    return (np.clip(overlap, 0, None) / (high - low)).astype(np.float32)


def _nearest(f: float, c: float, target_f: float, target_c: float, count: int) -> NDArray[np.int64]:
    centres = (np.arange(count) + 0.5 - target_c) * f / target_f + c
    return np.floor(np.clip(centres, -1, 1e9)).astype(np.int64)
