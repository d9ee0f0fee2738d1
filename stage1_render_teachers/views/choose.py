"""Choose views for a scene that brings no cameras. Of the views that a scene brings, captured.py chooses.

Chorus (figure 3): furthest-point sampling of positions over the navigable space, visibility culling over the sampled
angles, pairing of poses by the overlap of what they see. Ours, step by step:

1. Positions. Where people can stand: in every room of an interior, or on open ground (chorus_common/viewpoints). Around
   an object: rings.
2. What every candidate sees, with occlusion: by the voxels of the survey where people stand, by small pictures around
   an object.
3. Greedy choice of the views that add most Gaussians not yet seen three times; every room gets a view first.
4. Order: a chain in which each view is followed by the unused view that it overlaps most.

Up is +z by default, as everywhere in this code; many captured objects are y down: pass up=(0, -1, 0) for upright
pictures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from chorus_common.cameras import CameraSet, pinhole
from chorus_common.lifting import LiftingIndex
from chorus_common.runtime.errors import ConfigError, SceneError
from chorus_common.scene import GaussianScene
from chorus_common.viewpoints import Survey, survey_scene
from stage1_render_teachers.views.candidates import Candidates, ring_views, standing_views

F64 = NDArray[np.float64]
Up = tuple[float, float, float]

#: Views from which every Gaussian should be seen, and what the first, second and third sighting are worth.
ENOUGH_VIEWS = 3
GAINS = (1.0, 0.7, 0.5, 0.02)
#: A camera centre's k-th view counts this much less than its first, so that views spread.
REUSE = 0.85
#: Gaussians on which the greedy choice is made (a seeded sample of larger scenes).
MAX_TARGETS = 60_000


def choose_views(
    scene: GaussianScene,
    n_views: int,
    width: int,
    height: int,
    *,
    fov_x: float = 70.0,
    seed: int = 0,
    up: Up = (0.0, 0.0, 1.0),
    survey: Survey | None = None,
) -> CameraSet:
    """`n_views` cameras of width x height px and `fov_x` degrees that together see as much of the scene as they can: of
    its rooms where it is an interior.

    survey: `survey_scene(scene, up)`, where it is known already. Deterministic in (scene, arguments). Raises
    ConfigError for settings out of range, SceneError if nothing of the scene can be seen.
    """
    if n_views < 1:
        raise ConfigError(f"n_views must be at least 1, got {n_views}")
    if not 1 <= fov_x <= 150:
        raise ConfigError(f"fov_x must lie in 1..150 degrees, got {fov_x:g}")
    if not np.linalg.norm(up) > 0:
        raise ConfigError("up must not be the zero vector")
    opaque = np.flatnonzero(scene.opacities >= 0.05)
    if len(opaque) == 0:
        raise SceneError(
            f"scene {scene.name or '?'}: no Gaussian has opacity of 0.05 or more, so there is nothing to see"
        )
    survey = survey or survey_scene(scene, up)
    rng = np.random.default_rng(seed)
    targets = _targets(scene, opaque, survey, rng)
    intrinsics = pinhole(width, height, fov_x)
    if survey.rooms or (survey.surroundings is not None and len(survey.surroundings.stands)):
        candidates = standing_views(scene, targets, survey, n_views, intrinsics, width, height, rng)
    else:
        candidates = ring_views(scene, targets, survey, n_views, intrinsics, width, height)
    if candidates.seen.nnz == 0:
        raise SceneError(f"scene {scene.name or '?'}: none of the {len(candidates.viewmats)} views tried sees anything")
    chosen = greedy_cover(candidates, n_views)
    chosen = chosen[chain_by_overlap(overlap_matrix(candidates.seen[chosen]))]
    return CameraSet(
        candidates.viewmats[chosen],
        np.tile(intrinsics, (len(chosen), 1, 1)),
        width,
        height,
        tuple(f"view_{i:04d}" for i in range(len(chosen))),
    )


def _targets(
    scene: GaussianScene, opaque: NDArray[np.int64], survey: Survey, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The rows, ascending, that views are chosen for: those of the interior, or those near what is to be looked at."""
    means = scene.means[opaque]
    if survey.surroundings is None:
        wanted = survey.inside(means)
    else:
        margin = 0.25 * (survey.surroundings.high - survey.surroundings.low)
        points = means.astype(np.float64) @ survey.grid.frame.T
        low, high = survey.surroundings.low - margin, survey.surroundings.high + margin
        wanted = np.asarray(((points >= low) & (points <= high)).all(axis=1))
    rows = opaque[wanted] if wanted.any() else opaque
    return np.sort(rng.choice(rows, MAX_TARGETS, replace=False)) if len(rows) > MAX_TARGETS else rows


def greedy_cover(candidates: Candidates, count: int) -> NDArray[np.int64]:
    """Up to `count` distinct candidates, each the one that adds most at its turn; ties by index.

    A target's first, second, third and later sightings are worth GAINS; a camera centre's k-th view is worth REUSE^k of
    itself, and a view that shows nothing in a part of its picture that much less. As long as there are rooms without a
    view, only their views are candidates.
    """
    seen, camera_centre = candidates.seen, candidates.camera_centre
    gains = np.asarray(GAINS, np.float32)
    times = np.zeros(seen.shape[1], np.int64)
    used = np.zeros(int(camera_centre.max()) + 1)
    free = np.ones(seen.shape[0], bool)
    served = np.zeros(int(candidates.room.max()) + 1, bool)
    served[np.setdiff1d(np.arange(len(served)), candidates.room)] = True
    chosen: list[int] = []
    while len(chosen) < min(count, seen.shape[0]):
        value = (seen @ gains[np.minimum(times, ENOUGH_VIEWS)]) * candidates.worth * REUSE ** used[camera_centre]
        usable = free if served.all() else free & ~served[candidates.room]
        best = int(np.argmax(np.where(usable, value, -1)))
        chosen.append(best)
        free[best] = False
        served[candidates.room[best]] = True
        used[camera_centre[best]] += 1
        times[seen.indices[seen.indptr[best] : seen.indptr[best + 1]]] += 1
    return np.array(chosen)


def coverage(index: LiftingIndex, min_views: int = ENOUGH_VIEWS) -> float:
    """Share of the Gaussians that at least `min_views` views have visibility for."""
    return float((index.visibility()[1] >= min_views).mean()) if len(index) else 0.0


def overlap_matrix(seen: sparse.csr_matrix) -> F64:
    """[V, V]: Gaussians that both views see over Gaussians that either sees; `seen` is [V, N] of ones."""
    both = np.asarray((seen @ seen.T).todense(), np.float64)
    size = both.diagonal()
    either = size[:, None] + size[None, :] - both
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)


def chain_by_overlap(overlap: F64) -> NDArray[np.int64]:
    """An order [V] of the views from view 0 on, each followed by the unused view that it overlaps most; ties by
    index.
    """
    order = [0]
    free = np.ones(len(overlap), bool)
    free[0] = False
    while free.any():
        following = int(np.argmax(np.where(free, overlap[order[-1]], -1.0)))
        order.append(following)
        free[following] = False
    return np.array(order)
