"""Choose views for a scene that brings no cameras. Of the views that a scene brings, captured.py chooses.

Chorus (figure 3): furthest-point sampling of positions over the navigable space, visibility culling over the sampled
angles, pairing of poses by the overlap of what they see. Ours, step by step:

1. Positions. In a room: furthest points of the enclosed free space (free_space.py). Around an object: two shells of a
   Fibonacci sphere.
2. What every candidate sees: the rasteriser itself at low resolution, six cube faces per camera centre in a room (all
   look directions then come at the price of a frustum test), one picture per candidate around an object. A Gaussian
   is seen when it takes weight: the same definition as visibility in the lifting index, with occlusion.
3. Greedy choice of the views that add most Gaussians not yet seen three times.
4. Order: a chain in which each view is followed by the unused view that it overlaps most.

Up is +z by default, as everywhere in this code; many captured objects are y down: pass up=(0, -1, 0) for upright
pictures. Coverage does not depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from chorus_common.cameras import CameraSet, look_at, pinhole
from chorus_common.lifting import CellGrid, LiftingIndex
from chorus_common.rasterize import Rasterizer, get_backend
from chorus_common.runtime.errors import ConfigError, SceneError
from chorus_common.scene import GaussianScene
from stage1_render_teachers.views.free_space import (
    FreeSpace,
    find_free_space,
    furthest_points,
    robust_bounds,
    upright_frame,
)

F64 = NDArray[np.float64]
Up = tuple[float, float, float]

#: Views from which every Gaussian should be seen, and what the first, second and third sighting are worth.
ENOUGH_VIEWS = 3
GAINS = (1.0, 0.7, 0.5, 0.02)
#: A camera centre's k-th view counts this much less than its first, so that views spread.
REUSE = 0.85
#: Pixels of a probe picture, and the summed weight from which a Gaussian counts as seen in it.
PROBE, SEEN_WEIGHT = 96, 0.02
#: Gaussians on which the greedy choice is made (a seeded sample of larger scenes).
MAX_TARGETS = 60_000
PITCHES = (-40.0, -15.0, 10.0, 35.0)
YAWS = 10


@dataclass(frozen=True, eq=False)
class Candidates:
    """viewmats [M, 4, 4]; camera_centre [M]: which position a view was taken from; seen: bool CSR [M, targets]."""

    viewmats: F64
    camera_centre: NDArray[np.int64]
    seen: sparse.csr_matrix


def choose_views(
    scene: GaussianScene,
    n_views: int,
    width: int,
    height: int,
    *,
    fov_x: float = 70.0,
    seed: int = 0,
    up: Up = (0.0, 0.0, 1.0),
) -> CameraSet:
    """`n_views` cameras of width x height px and `fov_x` degrees that together see as much of the scene as they can.

    Deterministic in (scene, arguments). Raises ConfigError for settings out of range, SceneError if nothing of the
    scene can be seen.
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
    rng = np.random.default_rng(seed)
    targets = np.sort(rng.choice(opaque, MAX_TARGETS, replace=False)) if len(opaque) > MAX_TARGETS else opaque
    intrinsics = pinhole(width, height, fov_x)
    space = find_free_space(scene.select(opaque), up)
    points = space.camera_centres() if space.is_room else np.zeros((0, 3))
    backend = get_backend("cpu")
    if len(points):
        candidates = _room_candidates(scene, targets, space, points, n_views, intrinsics, width, height, backend, rng)
    else:
        candidates = _orbit_candidates(scene, targets, n_views, intrinsics, width, height, up, backend)
    if candidates.seen.nnz == 0:
        raise SceneError(f"scene {scene.name or '?'}: none of the {len(candidates.viewmats)} views tried sees anything")
    chosen = greedy_cover(candidates.seen, candidates.camera_centre, n_views)
    chosen = chosen[chain_by_overlap(overlap_matrix(candidates.seen[chosen]))]
    return CameraSet(
        candidates.viewmats[chosen],
        np.tile(intrinsics, (len(chosen), 1, 1)),
        width,
        height,
        tuple(f"view_{i:04d}" for i in range(len(chosen))),
    )


def _room_candidates(
    scene: GaussianScene,
    targets: NDArray[np.int64],
    space: FreeSpace,
    points: F64,
    n_views: int,
    intrinsics: F64,
    width: int,
    height: int,
    backend: Rasterizer,
    rng: np.random.Generator,
) -> Candidates:
    """Views from spread camera centres: YAWS headings (turned by a random angle per camera centre) times PITCHES,
    culled by visibility.
    """
    positions = points[furthest_points(points, max(8, n_views // 2), int(rng.integers(len(points))))]
    yaws = max(YAWS, -(-2 * n_views // (len(positions) * len(PITCHES))))
    means = scene.means[targets].astype(np.float64)
    viewmats, camera_centre, rows = [], [], []
    up = space.frame[2]
    for k, eye in enumerate(positions):
        visible = np.flatnonzero(_seen_around(scene, eye, space.frame, backend)[targets])
        turn = rng.uniform(0, 2 * np.pi)
        for pitch in np.radians(PITCHES):
            for yaw in turn + 2 * np.pi * np.arange(yaws) / yaws:
                heading = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
                view = look_at(eye, eye + heading @ space.frame, tuple(up))
                viewmats.append(view)
                camera_centre.append(k)
                rows.append(visible[_in_picture(means[visible], view, intrinsics, width, height)])
    return Candidates(np.array(viewmats), np.array(camera_centre), bool_csr(rows, len(targets)))


def _orbit_candidates(
    scene: GaussianScene,
    targets: NDArray[np.int64],
    n_views: int,
    intrinsics: F64,
    width: int,
    height: int,
    up: Up,
    backend: Rasterizer,
) -> Candidates:
    """Views from outside: a Fibonacci sphere at the distance from which the object fills the picture, and half as
    many at two thirds.
    """
    frame = upright_frame(up)
    points = scene.means[targets].astype(np.float64) @ frame.T
    low, high = robust_bounds(points, scene.opacities[targets])
    centre = (low + high) / 2
    reach = 2 * float(
        np.median(scene.scales[targets].max(1))
    )  # centres alone would leave out the body of a lone Gaussian
    radius = max(float(np.linalg.norm(high - low)) / 2 + reach, 0.02)
    half_angle = np.arctan(min(width, height) / 2 / intrinsics[0, 0])
    full = radius / np.sin(half_angle)
    count = max(24, n_views)
    k = np.arange(count)
    # from 35 degrees below the horizon to 75 above: hardly anything is captured from straight below
    z = np.sin(np.radians(-35)) + (np.sin(np.radians(75)) - np.sin(np.radians(-35))) * (k + 0.5) / count
    angle = k * np.pi * (3 - np.sqrt(5))
    directions = np.stack([np.sqrt(1 - z * z) * np.cos(angle), np.sqrt(1 - z * z) * np.sin(angle), z], 1)
    probe_width, probe_height = probe_size(width, height)
    probe = intrinsics * np.array([[probe_width / width], [probe_height / height], [1]])
    viewmats, rows = [], []
    for distance, shell in ((full, directions), (full * 2 / 3, directions[1::2])):
        for direction in shell:
            view = look_at((centre + distance * direction) @ frame, centre @ frame, tuple(frame[2]))
            viewmats.append(view)
            rows.append(np.flatnonzero(seen_in(scene, view, probe, probe_width, probe_height, backend)[targets]))
    return Candidates(np.array(viewmats), np.arange(len(rows)), bool_csr(rows, len(targets)))


def probe_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) of the small picture that says what a view sees."""
    scale = PROBE / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def seen_in(
    scene: GaussianScene, view: F64, intrinsics: F64, width: int, height: int, backend: Rasterizer
) -> NDArray[np.bool_]:
    """Which Gaussians [N] take weight in this picture."""
    hits = backend.render(scene, view, intrinsics, width, height, grid=CellGrid(width, height, 16)).hits
    assert hits is not None
    return np.bincount(hits.gaussian_ids, hits.weights, minlength=len(scene)) >= SEEN_WEIGHT


def _seen_around(scene: GaussianScene, eye: F64, frame: F64, backend: Rasterizer) -> NDArray[np.bool_]:
    """Which Gaussians [N] can be seen from `eye` in any direction: six cube faces."""
    seen = np.zeros(len(scene), bool)
    intrinsics = pinhole(PROBE, PROBE, 90)
    for axis in range(3):
        for sign in (1.0, -1.0):
            view = look_at(eye, eye + sign * frame[axis], tuple(frame[2] if axis != 2 else frame[0]))
            seen |= seen_in(scene, view, intrinsics, PROBE, PROBE, backend)
    return seen


def _in_picture(points: F64, view: F64, intrinsics: F64, width: int, height: int) -> NDArray[np.bool_]:
    """Which points [P, 3] project into the picture."""
    camera = points @ view[:3, :3].T + view[:3, 3]
    z = np.maximum(camera[:, 2], 1e-9)
    x = intrinsics[0, 0] * camera[:, 0] / z + intrinsics[0, 2]
    y = intrinsics[1, 1] * camera[:, 1] / z + intrinsics[1, 2]
    return (camera[:, 2] > 0.01) & (x >= 0) & (x < width) & (y >= 0) & (y < height)


def bool_csr(rows: list[NDArray[np.int64]], columns: int) -> sparse.csr_matrix:
    """[len(rows), columns] f32 matrix of ones at the given ascending columns of every row."""
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    indices = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    return sparse.csr_matrix((np.ones(len(indices), np.float32), indices, indptr), shape=(len(rows), columns))


def greedy_cover(seen: sparse.csr_matrix, camera_centre: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Up to `count` distinct rows of `seen` [M, targets], each the one that adds most at its turn; ties by index.

    A target's first, second, third and later sightings are worth GAINS; a camera centre's k-th view is worth REUSE^k of
    itself.
    """
    gains = np.asarray(GAINS, np.float32)
    times = np.zeros(seen.shape[1], np.int64)
    used = np.zeros(int(camera_centre.max()) + 1)
    free = np.ones(seen.shape[0], bool)
    chosen: list[int] = []
    while len(chosen) < min(count, seen.shape[0]):
        value = (seen @ gains[np.minimum(times, ENOUGH_VIEWS)]) * REUSE ** used[camera_centre]
        best = int(np.argmax(np.where(free, value, -1)))
        chosen.append(best)
        free[best] = False
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
