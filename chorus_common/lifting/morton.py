"""Morton order: neighbours in it are neighbours in space, so that a crop of a scene is a range of rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.errors import SceneError

I64 = NDArray[np.int64]

MORTON_BITS = 21


def morton_order(means: NDArray[np.floating]) -> I64:
    """Order [N] of points [N, 3] along a Z-curve: 21 bits per axis over the bounding cube, x lowest bit, ties by index.

    The cube's side is the longest side of the bounding box, so that cells are cubes and not stretched with the scene.
    """
    points = np.asarray(means, np.float64)
    if len(points) == 0:
        return np.zeros(0, np.int64)
    if not np.isfinite(points).all():
        raise SceneError(
            f"centre {int(np.argwhere(~np.isfinite(points).all(1))[0, 0])} is not finite; repair or prune the scene"
        )
    low = points.min(0)
    side = float((points.max(0) - low).max()) or 1.0
    top = 2**MORTON_BITS - 1
    grid = np.minimum((points - low) / side * top, top).astype(np.uint64)
    code = _spread(grid[:, 0]) | (_spread(grid[:, 1]) << np.uint64(1)) | (_spread(grid[:, 2]) << np.uint64(2))
    return np.argsort(code, kind="stable")


def _spread(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The 21 low bits of x, moved to every third bit."""
    for shift, mask in (
        (32, 0x001F00000000FFFF),
        (16, 0x001F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        x = (x | (x << np.uint64(shift))) & np.uint64(mask)
    return x
