"""Camera paths: a hand-held walk through free space, completed by views chosen so that every surface is seen several
times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import CameraSet, look_at, pinhole
from data_manifests.synthetic.item import overlapping
from data_manifests.synthetic.plan import Plan

F64 = NDArray[np.float64]
Rng = np.random.Generator

CLEARANCE = 0.45  # metres between a camera and any furniture or wall, where the room has such places
WANTED = 3  # views that should see each surface point
BUFFER = (80, 60)  # pixels of the depth buffer used for choosing views
GREEDY = 48  # views chosen one by one for what they add; more than that see everything anyway


def free_of(boxes: F64, points: F64, clearance: float = CLEARANCE) -> NDArray[np.bool_]:
    """Which points [K, 3] are at least about `clearance` metres away from all oriented boxes [S, 8]."""
    probe = np.zeros((len(points), 8))
    probe[:, :2], probe[:, 2:4], probe[:, 4] = points[:, :2], clearance, 1.0
    probe[:, 6], probe[:, 7] = points[:, 2] - clearance, points[:, 2] + clearance
    blocked: NDArray[np.bool_] = np.any(overlapping(probe, boxes), axis=1)
    return ~blocked


def free_positions(rng: Rng, plan: Plan, boxes: F64, count: int) -> F64:
    """Camera positions [K, 3] in the room, clear of walls and furniture, at eye height of someone who holds a phone."""
    lo, hi = plan.corners.min(0), plan.corners.max(0)
    found: list[F64] = []
    for clearance in (CLEARANCE, 0.6 * CLEARANCE, 0.3 * CLEARANCE):
        xy = rng.uniform(lo, hi, (6 * count, 2))
        z = rng.uniform(0.95, min(1.85, plan.height - 0.35), 6 * count)
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


@dataclass(frozen=True)
class CameraOptics:
    """Picture size in pixels and horizontal field of view in degrees."""

    width: int
    height: int
    fov: float


@dataclass(frozen=True, eq=False)
class Surface:
    """What is to be seen: points and outward normals [K, 3], and how much each point matters [K]."""

    points: F64
    normals: F64
    weights: F64


def visible(surface: Surface, view: F64, intrinsics: F64, optics: CameraOptics) -> tuple[NDArray[np.bool_], float]:
    """Which points [K] face a camera and are seen, and how far it sees (25th percentile of depth, metres).

    Uses a point depth buffer of BUFFER pixels: approximate, for choosing views only.
    """
    camera = surface.points @ view[:3, :3].T + view[:3, 3]
    facing = np.einsum("ij,ij->i", camera, surface.normals @ view[:3, :3].T) < 0
    z = camera[:, 2]
    front = z > 0.15
    safe = np.where(front, z, 1.0)
    u = (camera[:, 0] / safe * intrinsics[0, 0] + intrinsics[0, 2]) * BUFFER[0] / optics.width
    v = (camera[:, 1] / safe * intrinsics[1, 1] + intrinsics[1, 2]) * BUFFER[1] / optics.height
    inside = front & (u >= 0) & (u < BUFFER[0]) & (v >= 0) & (v < BUFFER[1])
    pixel = np.where(inside, v.astype(np.int64) * BUFFER[0] + u.astype(np.int64), 0)
    nearest = np.full(BUFFER[0] * BUFFER[1], np.inf)
    np.minimum.at(nearest, pixel[inside], z[inside])
    depth = nearest.reshape(BUFFER[1], BUFFER[0])
    # a point's neighbours close the gaps between samples of the surface in front
    closed = np.minimum.reduce([depth, *(np.roll(depth, s, a) for a in (0, 1) for s in (-1, 1))]).ravel()
    hit = closed[np.isfinite(closed)]
    reach = float(np.sort(hit)[len(hit) // 4]) if len(hit) else 0.0
    return inside & facing & (z <= closed[pixel] * 1.04 + 0.12), reach


def _walk(rng: Rng, positions: F64, count: int) -> F64:
    """A tour [count, 3] round the room along positions that are spread far apart."""
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


def draw_cameras(rng: Rng, plan: Plan, boxes: F64, surface: Surface, n_views: int, optics: CameraOptics) -> CameraSet:
    """`n_views` cameras in the room's frame, clear of oriented boxes [S, 8].

    A third of them walks round the room and looks across it; the others are chosen one by one among random candidates,
    each time the view that adds most to the surface points [K, 3] (with `weights` [K]) which fewer than WANTED views
    have seen, and does not stare at a wall.
    """
    k = pinhole(optics.width, optics.height, optics.fov)
    positions = free_positions(rng, plan, boxes, 90)
    subset = rng.permutation(len(surface.points))[:5000]
    surface = Surface(surface.points[subset], surface.normals[subset], surface.weights[subset])
    weights = surface.weights
    centre = np.average(surface.points, axis=0, weights=weights)
    views, seen = [], np.zeros(len(subset), dtype=np.int64)

    def best_of(eye: F64, yaws: F64, pitch: float) -> None:
        tried = [_view(rng, eye, float(yaw), pitch + float(rng.normal(0, 0.1))) for yaw in yaws]
        results = [visible(surface, view, k, optics) for view in tried]
        best = int(np.argmax([(mask @ weights) * min(reach, 1.5) for mask, reach in results]))
        views.append(tried[best])
        seen[results[best][0]] += 1

    for eye in _walk(rng, positions, max(1, n_views // 3)):
        towards = np.arctan2(centre[1] - eye[1], centre[0] - eye[0])
        best_of(eye, towards + rng.normal(0, 0.2) + np.array([0.0, 0.6, -0.6, 1.4, -1.4]), -0.28)

    n_greedy = min(n_views - len(views), GREEDY)
    candidates, masks, clear = [], [], []
    for i in range(max(60, 4 * n_greedy) if n_greedy else 0):
        pitch = float(rng.choice([-0.45, -0.2, 0.08], p=[0.5, 0.4, 0.1]) + rng.normal(0, 0.1))
        candidates.append(_view(rng, positions[i % len(positions)], float(rng.uniform(-np.pi, np.pi)), pitch))
        mask, reach = visible(surface, candidates[-1], k, optics)
        masks.append(mask)
        clear.append(min(reach, 1.5))
    for _ in range(n_greedy):
        score = (np.array(masks) @ (weights * (np.clip(WANTED - seen, 0, None) + 0.03))) * clear
        best = int(score.argmax())
        views.append(candidates[best])
        seen[masks[best]] += 1
        clear[best] = 0.0  # chosen
    while len(views) < n_views:
        best_of(positions[rng.integers(len(positions))], rng.uniform(-np.pi, np.pi, 2), -0.25)
    names = tuple(f"{i:06d}" for i in range(n_views))
    return CameraSet(np.stack(views), np.repeat(k[None], n_views, 0), optics.width, optics.height, names)


def _view(rng: Rng, eye: F64, yaw: float, pitch: float) -> F64:
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    roll = rng.normal(0, 0.03)  # hands are not tripods
    side = np.array([-np.sin(yaw), np.cos(yaw), 0.0])
    up = np.array([0.0, 0.0, 1.0]) + roll * side
    return look_at(eye, eye + forward, (float(up[0]), float(up[1]), float(up[2])))
