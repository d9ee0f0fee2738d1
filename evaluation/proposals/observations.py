"""2D masks brought onto the Gaussians: which mask of each view every Gaussian lies in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chorus_common.cache import SceneCache
from chorus_common.scene import GaussianScene

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

UNSEEN, NO_MASK = -1, -2

#: A view sees a Gaussian where its blending weight there is at least this share of its weight in its best view: what
#: shines through, or only touches the picture's border, is not seen.
SEEN_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Observations:
    """mask [N, V] i32: number of the mask (through all views), NO_MASK where the view sees the Gaussian and no mask of
    its lies there, UNSEEN. offsets [V + 1]: the masks of view v are offsets[v] .. offsets[v + 1] - 1.
    """

    mask: I32
    offsets: I64

    @property
    def n_masks(self) -> int:
        return int(self.offsets[-1])


def observe(cache: SceneCache, scene: GaussianScene, teacher: str, level: str) -> Observations:
    """Look up the masks of one level.

    The lifting index says which views see a Gaussian (occlusion is in its weights), the projection of the centre says
    at which pixel: a cell of the index is coarser than a mask's border.
    """
    pictures = cache.masks(teacher, level)  # [V, H, W]
    cameras, seen = cache.cameras(), _seen(cache)
    n_views, height, width = pictures.shape
    counts = pictures.reshape(n_views, -1).max(axis=1, initial=-1) + 1
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    result = np.full((len(scene), n_views), UNSEEN, dtype=np.int32)
    means = scene.means.astype(np.float64)
    for v in range(n_views):
        rows = np.flatnonzero(seen[:, v])
        p = means[rows] @ cameras.viewmats[v][:3, :3].T + cameras.viewmats[v][:3, 3]
        uvw = p @ cameras.intrinsics[v].T
        with np.errstate(divide="ignore", invalid="ignore"):
            x = np.floor(uvw[:, 0] / uvw[:, 2] * (width / cameras.width))
            y = np.floor(uvw[:, 1] / uvw[:, 2] * (height / cameras.height))
            inside = (p[:, 2] > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        ids = pictures[v][y[inside].astype(np.int64), x[inside].astype(np.int64)]
        # A large Gaussian may be seen while its centre is not: that view says nothing about it.
        result[rows[inside], v] = np.where(ids >= 0, ids + offsets[v], NO_MASK)
    return Observations(result, offsets)


def _seen(cache: SceneCache) -> NDArray[np.bool_]:
    """[N, V] which views see which Gaussians."""
    index = cache.lifting()
    rows = np.repeat(np.arange(len(index)), np.diff(index.indptr))
    keys = rows * index.n_views + index.columns // index.grid.cells
    weight = np.bincount(keys, weights=index.weights, minlength=len(index) * index.n_views)
    weight = weight.reshape(len(index), index.n_views)
    return (weight > 0) & (weight >= SEEN_SHARE * weight.max(axis=1, keepdims=True))
