"""Camera paths: a hand-held walk through free space, completed by views chosen so that every surface is seen several times."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import CameraSet, look_at, pinhole
from chorus_common.synthetic.item import overlapping
from chorus_common.synthetic.plan import Plan

F64 = NDArray[np.float64]
Rng = np.random.Generator

CLEARANCE = 0.28  # metres between a camera and any furniture or wall
WANTED = 3  # views that should see each surface point
BUFFER = (80, 60)  # pixels of the depth buffer used for choosing views


def free_of(boxes: F64, points: F64, clearance: float = CLEARANCE) -> NDArray[np.bool_]:
    """Which points [K, 3] are at least about `clearance` metres away from all oriented boxes [S, 8]."""
    probe = np.zeros((len(points), 8))
    probe[:, :2], probe[:, 2:4], probe[:, 4] = points[:, :2], clearance, 1.0
    probe[:, 6], probe[:, 7] = points[:, 2] - clearance, points[:, 2] + clearance
    return ~overlapping(probe, boxes).any(axis=1)


def free_positions(rng: Rng, plan: Plan, boxes: F64, count: int) -> F64:
    """Camera positions [K, 3] in the room, clear of walls and furniture, at eye height of someone who holds a phone."""
    lo, hi = plan.corners.min(0), plan.corners.max(0)
    found: list[F64] = []
    for clearance in (CLEARANCE, 0.6 * CLEARANCE, 0.25 * CLEARANCE):
        xy = rng.uniform(lo, hi, (6 * count, 2))
        z = rng.uniform(1.15, min(1.75, plan.height - 0.35), 6 * count)
        points = np.concatenate([xy, z[:, None]], axis=1)
        ok = plan.contains(points[:, :2], clearance)
        ok[ok] = free_of(boxes, points[ok], clearance)
        found.append(points[ok])
        if sum(map(len, found)) >= count:
            break
    points = np.concatenate(found)[:count]
    if not len(points):  # a room so full that only the air below the ceiling is left
        points = np.array([[*(lo + hi) / 2, plan.height - 0.3]])
    return points


def visible(points: F64, view: F64, intrinsics: F64, width: int, height: int) -> NDArray[np.bool_]:
    """Which points [K, 3] a camera sees, by a small point depth buffer of BUFFER pixels (approximate: for choosing views only)."""
    camera = points @ view[:3, :3].T + view[:3, 3]
    z = camera[:, 2]
    front = z > 0.15
    safe = np.where(front, z, 1.0)
    u = (camera[:, 0] / safe * intrinsics[0, 0] + intrinsics[0, 2]) * BUFFER[0] / width
    v = (camera[:, 1] / safe * intrinsics[1, 1] + intrinsics[1, 2]) * BUFFER[1] / height
    inside = front & (u >= 0) & (u < BUFFER[0]) & (v >= 0) & (v < BUFFER[1])
    pixel = np.where(inside, v.astype(np.int64) * BUFFER[0] + u.astype(np.int64), 0)
    nearest = np.full(BUFFER[0] * BUFFER[1], np.inf)
    np.minimum.at(nearest, pixel[inside], z[inside])
    depth = nearest.reshape(BUFFER[1], BUFFER[0])
    # a point's neighbours close the gaps between samples of the surface in front
    closed = np.minimum.reduce([depth, *(np.roll(depth, s, a) for a in (0, 1) for s in (-1, 1))]).ravel()
    return inside & (z <= closed[pixel] * 1.04 + 0.12)


def _walk(rng: Rng, positions: F64, count: int) -> F64:
    """A smooth tour [count, 3] along positions that are spread far apart, staying on the given free positions."""
    chosen = [int(rng.integers(len(positions)))]
    distance = np.linalg.norm(positions - positions[chosen[0]], axis=1)
    for _ in range(min(count, len(positions)) - 1):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(positions - positions[chosen[-1]], axis=1))
    picked = positions[chosen]
    centre = picked[:, :2].mean(0)
    around = np.argsort(np.arctan2(picked[:, 1] - centre[1], picked[:, 0] - centre[0]), kind="stable")
    tour = picked[around]
    return tour[np.arange(count) % len(tour)]


def draw_cameras(
    rng: Rng, plan: Plan, boxes: F64, points: F64, n_views: int, width: int, height: int, fov: float | None = None
) -> CameraSet:
    """`n_views` cameras in the room's frame.

    A third of them walks round the room and looks across it; the rest is chosen one by one among random candidates, each time the view that
    sees the most points [K, 3] that fewer than WANTED views have seen. The horizontal field of view is 65-75 degrees unless given.
    """
    intrinsics = pinhole(width, height, float(rng.uniform(65, 75)) if fov is None else fov)
    positions = free_positions(rng, plan, boxes, 90)
    centre = points.mean(0)
    n_walk = max(1, n_views // 3)
    views = []
    for eye in _walk(rng, positions, n_walk):
        towards = centre - eye
        yaw = np.arctan2(towards[1], towards[0]) + rng.normal(0, 0.5)
        views.append(_view(rng, eye, float(yaw), float(rng.normal(-0.28, 0.12))))
    subset = points[rng.permutation(len(points))[:5000]]
    seen = np.zeros(len(subset), dtype=np.int64)
    for view in views:
        seen += visible(subset, view, intrinsics, width, height)
    n_candidates = int(np.clip(4 * n_views, 60, 160))
    candidates, masks = [], []
    for i in range(n_candidates if n_views > n_walk else 0):
        eye = positions[i % len(positions)]
        pitch = float(rng.choice([-0.45, -0.2, 0.1], p=[0.5, 0.35, 0.15]) + rng.normal(0, 0.1))
        candidates.append(_view(rng, eye, float(rng.uniform(-np.pi, np.pi)), pitch))
        masks.append(visible(subset, candidates[-1], intrinsics, width, height))
    gain = np.array(masks) if masks else np.empty((0, len(subset)), dtype=bool)
    used = np.zeros(len(gain), dtype=bool)
    while len(views) < n_views:
        wanted = np.clip(WANTED - seen, 0, None) + 0.02
        score = np.where(used, -1.0, gain @ wanted)
        best = int(score.argmax())
        if used[
            best
        ]:  # more views asked for than candidates: a second helping of fresh ones would look alike, so repeat with a new pitch
            eye = positions[rng.integers(len(positions))]
            views.append(_view(rng, eye, float(rng.uniform(-np.pi, np.pi)), float(rng.normal(-0.3, 0.2))))
            continue
        used[best] = True
        seen += gain[best]
        views.append(candidates[best])
    return CameraSet(
        np.stack(views),
        np.repeat(intrinsics[None], n_views, 0),
        width,
        height,
        tuple(f"{i:06d}" for i in range(n_views)),
    )


def _view(rng: Rng, eye: F64, yaw: float, pitch: float) -> F64:
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    roll = rng.normal(0, 0.03)  # hands are not tripods
    side = np.array([-np.sin(yaw), np.cos(yaw), 0.0])
    up = np.array([0.0, 0.0, 1.0]) + roll * side
    return look_at(eye, eye + forward, (float(up[0]), float(up[1]), float(up[2])))
