"""Choose among the views that a scene brings: as in views.py, over given poses in place of free space.

A capture walks: neighbours in its order see nearly the same. Furthest-point sampling over where a camera stands and
what it looks at leaves a few candidates per wanted view, small renderings say what each sees, and the greedy choice and
the order by overlap are those of chosen views.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import CameraSet
from chorus_common.rasterize import get_backend
from chorus_common.scene import GaussianScene
from chorus_common.viewpoints.geometry import furthest_points
from stage1_render_teachers.views.candidates import Candidates, bool_csr, probe_size, seen_in
from stage1_render_teachers.views.choose import MAX_TARGETS, chain_by_overlap, greedy_cover, overlap_matrix

#: Candidates that are rendered for every view that is kept.
CANDIDATES = 4


def spread_views(scene: GaussianScene, cameras: CameraSet, count: int, *, seed: int = 0) -> CameraSet:
    """`count` of the cameras that together see as much of the scene as they can; all where there are no more.

    Deterministic in (scene, arguments); poses that are equal count once, so that fewer may be left.
    """
    if len(cameras) <= count:
        return cameras
    candidates = furthest_points(_poses(scene, cameras), CANDIDATES * count, 0)
    rng = np.random.default_rng(seed)
    n = len(scene)
    targets = np.sort(rng.choice(n, MAX_TARGETS, replace=False)) if n > MAX_TARGETS else np.arange(n)
    backend = get_backend("cpu")
    small = cameras.resized(*probe_size(cameras.width, cameras.height))
    rows = []
    for view in candidates:
        seen = seen_in(scene, small.viewmats[view], small.intrinsics[view], small.width, small.height, backend)
        rows.append(np.flatnonzero(seen[targets]))
    seen_by = bool_csr(rows, len(targets))
    views = np.arange(len(candidates))
    chosen = greedy_cover(
        Candidates(cameras.viewmats[candidates], views, np.zeros_like(views), np.ones(len(views)), seen_by), count
    )
    return cameras.select(candidates[chosen[chain_by_overlap(overlap_matrix(seen_by[chosen]))]])


def _poses(scene: GaussianScene, cameras: CameraSet) -> NDArray[np.float64]:
    """[V, 6]: where a camera stands, and the point before it at half the reach of the middle half of the scene."""
    low, high = np.quantile(scene.means, [0.25, 0.75], axis=0)
    forward = cameras.viewmats[:, 2, :3] * max(float(np.linalg.norm(high - low)) / 2, 1e-3)
    return np.concatenate([cameras.centers, cameras.centers + forward], axis=1)
