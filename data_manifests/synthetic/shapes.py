"""Parametric surfaces out of which all synthetic furniture is made.

A patch is a grid of points [m, n, 3] in metres: rows run along v, columns along u, and the surface between them is
bilinear. The outward normal is du x dv. The same patches are sampled as Gaussians (`sampling`) and tessellated as
triangles (`mesh`), so both agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Patch = NDArray[np.float64]
Vec = Sequence[float]


def quad(origin: ArrayLike, eu: ArrayLike, ev: ArrayLike) -> Patch:
    """The parallelogram origin + u eu + v ev, [2, 2, 3]; it faces eu x ev."""
    o, a, b = (np.asarray(x, dtype=np.float64) for x in (origin, eu, ev))
    return np.array([[o, o + a], [o + b, o + a + b]])


def box(lo: Vec, hi: Vec, skip: str = "") -> list[Patch]:
    """The faces of an axis-aligned box. `skip` leaves faces out that nobody can see:
    l -x, r +x, n -y (back), f +y (front), b -z (bottom), t +z (top)."""
    (x0, y0, z0), (x1, y1, z1) = lo, hi
    w, d, h = x1 - x0, y1 - y0, z1 - z0
    faces = {
        "t": ((x0, y0, z1), (w, 0, 0), (0, d, 0)), "b": ((x0, y1, z0), (w, 0, 0), (0, -d, 0)),
        "f": ((x1, y1, z0), (-w, 0, 0), (0, 0, h)), "n": ((x0, y0, z0), (w, 0, 0), (0, 0, h)),
        "r": ((x1, y0, z0), (0, d, 0), (0, 0, h)), "l": ((x0, y1, z0), (0, -d, 0), (0, 0, h)),
    }  # fmt: skip
    return [quad(*faces[key]) for key in "tbfnrl" if key not in skip]


def rounded_box(lo: Vec, hi: Vec, radius: float, bulge: float = 0.0, skip: str = "") -> list[Patch]:
    """A box with rounded edges, swollen at the top by `bulge` metres: cushions, mattresses, upholstery."""
    low, high = np.asarray(lo, dtype=np.float64), np.asarray(hi, dtype=np.float64)
    r = min(radius, 0.49 * float((high - low).min()))
    steps = np.array([0.0, 0.3, 1.0])
    out = []
    for corner in box(lo, hi, skip):
        o, eu, ev = corner[0, 0], corner[0, 1] - corner[0, 0], corner[1, 0] - corner[0, 0]
        coords = []
        for e in (eu, ev):
            t = steps * r / np.linalg.norm(e)
            coords.append(np.concatenate([t, np.linspace(t[-1], 1 - t[-1], 5)[1:-1], 1 - t[::-1]]))
        points = o + coords[1][:, None, None] * ev + coords[0][None, :, None] * eu  # [m, n, 3]
        inner = np.clip(points, low + r, high - r)
        away = points - inner
        points = inner + r * away / np.linalg.norm(away, axis=-1, keepdims=True)
        if bulge:
            s = 2 * (points - low) / (high - low) - 1
            lift = (1 - s[..., 0] ** 2) * (1 - s[..., 1] ** 2) * (s[..., 2] > 0)
            points[..., 2] += bulge * np.clip(lift, 0, 1)
        out.append(points)
    return out


def lathe(
    profile: Sequence[tuple[float, float]],
    center: Vec = (0.0, 0.0, 0.0),
    stretch: tuple[float, float] = (1.0, 1.0),
    k: int = 14,
    power: float = 2.0,
) -> list[Patch]:
    """Revolve the profile [(radius, z), ...] about the vertical through `center`.

    A profile that runs from the outer bottom over the rim to the inner bottom faces outwards, then inwards: bowls,
    tubs, bins, lamp shades. `stretch` makes the cross-section an ellipse; `power` > 2 a superellipse (4-8: a rectangle
    with round corners).
    """
    angle = np.linspace(0, 2 * np.pi, k + 1)
    c, s = np.cos(angle), np.sin(angle)
    if power != 2.0:
        c, s = np.sign(c) * np.abs(c) ** (2 / power), np.sign(s) * np.abs(s) ** (2 / power)
    p = np.asarray(profile, dtype=np.float64)
    x, y = p[:, :1] * c * stretch[0], p[:, :1] * s * stretch[1]
    grid = np.stack([x, y, np.broadcast_to(p[:, 1:], x.shape)], axis=-1)
    return [grid + np.asarray(center, dtype=np.float64)]


def cylinder(center: Vec, radius: float, height: float, k: int = 12, *, cap: bool = True) -> list[Patch]:
    """An upright cylinder that stands on `center`, with a top if `cap`."""
    side = lathe([(radius, 0), (radius, height)], center, k=k)
    return side + (lathe([(radius, height), (0.0, height)], center, k=k) if cap else [])


def rod(start: Vec, end: Vec, radius: float, k: int = 6) -> list[Patch]:
    """A thin round bar between two points (curtain rods, handles, chair bases); open ends."""
    a, b = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    axis = (b - a) / np.linalg.norm(b - a)
    side = np.cross(axis, (0.0, 0.0, 1.0) if abs(axis[2]) < 0.9 else (1.0, 0.0, 0.0))
    side /= np.linalg.norm(side)
    other = np.cross(axis, side)
    angle = np.linspace(0, 2 * np.pi, k + 1)[:, None]
    ring = radius * (np.cos(angle) * side + np.sin(angle) * other)  # [k+1, 3]
    return [np.stack([a + ring, b + ring])]


def panel(origin: Vec, eu: Vec, ev: Vec, holes: Sequence[tuple[float, float, float, float]] = ()) -> list[Patch]:
    """A rectangle with rectangular holes (u0, u1, v0, v1) in metres along eu and ev, cut into whole rectangles."""
    o, a, b = (np.asarray(x, dtype=np.float64) for x in (origin, eu, ev))
    width, height = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    a, b = a / width, b / height
    cuts = sorted({0.0, width, *(min(max(u, 0.0), width) for h in holes for u in h[:2])})
    out = []
    for u0, u1 in pairwise(cuts):
        if u1 - u0 < 1e-6:
            continue
        inside = sorted((h[2], h[3]) for h in holes if h[0] < u1 - 1e-6 and h[1] > u0 + 1e-6)
        at = 0.0
        for v0, v1 in [*inside, (height, height)]:
            if v0 - at > 1e-6:
                out.append(quad(o + u0 * a + at * b, (u1 - u0) * a, (v0 - at) * b))
            at = max(at, v1)
    return out


def folded_sheet(width: float, z0: float, z1: float, depth: float, folds: int, phase: float) -> list[Patch]:
    """Hanging cloth in the plane y = 0 facing +y, from z0 to z1, with sinusoidal folds that open towards the hem."""
    u = np.linspace(0, 1, max(9, 6 * folds + 1))
    v = np.linspace(0, 1, 4)[:, None]
    wave = np.sin(2 * np.pi * folds * u + phase)
    y = depth * (1.25 - 0.5 * v) * wave
    x = np.broadcast_to((0.5 - u) * width, y.shape)
    return [np.stack([x, y, np.broadcast_to(z0 + v * (z1 - z0), y.shape)], axis=-1)]


def moved(patches: list[Patch], offset: Vec, yaw: float = 0.0) -> list[Patch]:
    """Rotate about z by `yaw` radians, then shift."""
    c, s = np.cos(yaw), np.sin(yaw)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return [p @ turn.T + np.asarray(offset, dtype=np.float64) for p in patches]


def tilted(patches: list[Patch], angle: float, pivot: Vec) -> list[Patch]:
    """Rotate about the x axis through `pivot` by `angle` radians; positive leans the top towards -y (backwards)."""
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    o = np.asarray(pivot, dtype=np.float64)
    return [(p - o) @ turn.T + o for p in patches]
