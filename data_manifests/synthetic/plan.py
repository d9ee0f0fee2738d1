"""Floor plans: rectilinear rooms with doors and windows cut into their walls."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_manifests.synthetic.item import Item
from data_manifests.synthetic.shapes import panel, quad
from data_manifests.synthetic.textures import Texture, draw_color, tinted

F64 = NDArray[np.float64]
Rng = np.random.Generator


@dataclass(eq=False)
class Edge:
    """One wall: from `a` to `b` [2] with the room on its left; holes (s0, s1, z0, z1) in metres along it and up."""

    a: F64
    b: F64
    holes: list[tuple[float, float, float, float]] = field(default_factory=list)

    @property
    def length(self) -> float:
        return float(np.linalg.norm(self.b - self.a))

    @property
    def along(self) -> F64:
        return (self.b - self.a) / self.length

    @property
    def inward(self) -> F64:
        d = self.along
        return np.array([-d[1], d[0]])

    @property
    def yaw(self) -> float:
        """Turn of an item whose front (+y) looks into the room."""
        return float(np.arctan2(-self.inward[0], self.inward[1]))

    def point(self, s: float, off: float = 0.0) -> F64:
        """The point [2] at `s` metres along the wall and `off` metres into the room."""
        return self.a + s * self.along + off * self.inward

    def clear(self, s0: float, s1: float, z0: float = 0.0, z1: float = 9.0) -> bool:
        """Whether no hole lies within s0..s1, z0..z1."""
        return all(s1 <= h[0] or s0 >= h[1] or z1 <= h[2] or z0 >= h[3] for h in self.holes)


@dataclass(eq=False)
class Plan:
    """A room: counter-clockwise corners [C, 2] in metres, height, walls, and the rectangles that make up its floor."""

    corners: F64
    height: float
    edges: list[Edge]
    rectangles: list[tuple[float, float, float, float]]

    def contains(self, points: F64, margin: float = 0.0) -> NDArray[np.bool_]:
        """Which points [K, 2] lie inside and at least `margin` from every wall."""
        inside = np.zeros(len(points), dtype=bool)
        for x0, x1, y0, y1 in self.rectangles:
            inside |= (points[:, 0] >= x0) & (points[:, 0] <= x1) & (points[:, 1] >= y0) & (points[:, 1] <= y1)
        return inside & (self.wall_distance(points) >= margin) if margin > 0 else inside

    def wall_distance(self, points: F64) -> F64:
        """Distance [K] of points [K, 2] to the nearest wall."""
        best = np.full(len(points), np.inf)
        for edge in self.edges:
            t = np.clip((points - edge.a) @ edge.along, 0, edge.length)
            best = np.minimum(best, np.linalg.norm(points - edge.a - t[:, None] * edge.along, axis=1))
        return best


def draw_plan(rng: Rng, size: tuple[float, float], shape: str) -> Plan:
    """A rectangle, an L or a rectangle with an alcove, of roughly `size` metres and 2.3-3.1 m high."""
    w, d = size
    rectangles: list[tuple[float, float, float, float]]
    if shape == "L":
        cw, cd = w * rng.uniform(0.35, 0.5), d * rng.uniform(0.35, 0.5)
        corners = [(0, 0), (w, 0), (w, d - cd), (w - cw, d - cd), (w - cw, d), (0, d)]
        rectangles = [(0, w, 0, d - cd), (0, w - cw, d - cd, d)]
    elif shape == "alcove":
        aw, ad = rng.uniform(1.0, 0.45 * w + 0.6), rng.uniform(0.5, 1.1)
        x0 = rng.uniform(0.4, max(0.45, w - aw - 0.4))
        corners = [(0, 0), (w, 0), (w, d), (x0 + aw, d), (x0 + aw, d + ad), (x0, d + ad), (x0, d), (0, d)]
        rectangles = [(0, w, 0, d), (x0, x0 + aw, d, d + ad)]
    else:
        corners = [(0, 0), (w, 0), (w, d), (0, d)]
        rectangles = [(0, w, 0, d)]
    points = np.array(corners, dtype=np.float64)
    if rng.random() < 0.5:  # mirror, keeping the walls counter-clockwise
        points = np.array([w, 0.0]) + (points * [-1, 1])[::-1]
        rectangles = [(w - x1, w - x0, y0, y1) for x0, x1, y0, y1 in rectangles]
    edges = [Edge(p, q) for p, q in zip(points, np.roll(points, -1, axis=0))]
    return Plan(points, float(rng.uniform(2.3, 3.1)), edges, rectangles)


def wall_textures(rng: Rng, *, tiled: bool) -> list[Texture]:
    """One texture, or now and then a second one for an accent wall."""
    kinds = ["tiles", "plain", "marble"] if tiled else ["plain", "plain", "plain", "stripes", "fabric"]
    base = np.full(3, rng.uniform(0.55, 0.92)) + rng.normal(0, 0.05, 3) if rng.random() < 0.75 else draw_color(rng, 0.7)
    first = tinted(rng, str(rng.choice(kinds)), np.clip(base, 0.1, 0.95), 0.02)
    second = tinted(rng, "plain", draw_color(rng), 0.02) if rng.random() < 0.25 else first
    return [first, second]


def structure(rng: Rng, plan: Plan, *, tiled: bool) -> list[Item]:
    """Walls with holes and skirting, floor and ceiling as items in the frame of the plan. The ceiling has no ScanNet20
    name.
    """
    first, second = wall_textures(rng, tiled=tiled)
    trim = tinted(rng, "plain", np.full(3, rng.uniform(0.5, 0.9)), 0.05)
    items = []
    accent = int(rng.integers(len(plan.edges)))
    skirting = rng.random() < 0.6
    for i, edge in enumerate(plan.edges):
        item = Item("wall", "wall")
        # seen from the room, u runs from b to a, so that u x z points inwards
        length = edge.length
        holes = [(length - h[1], length - h[0], h[2], h[3]) for h in edge.holes]
        a, b = edge.a, edge.b
        item.add("surface", second if i == accent else first, panel((*b, 0), (*(a - b), 0), (0, 0, plan.height), holes))
        if skirting:
            cut = [(h[0] - 0.075, h[1] + 0.075, -1.0, 9.0) for h in holes if h[2] < 0.05]
            off = 0.012 * edge.inward
            item.add("skirting", trim, panel((*(b + off), 0), (*(a - b), 0), (0, 0, 0.08), cut))
        items.append(item)
    kind = str(rng.choice(["tiles", "marble", "tiles"] if tiled else ["planks", "planks", "plain", "fabric", "tiles"]))
    color = draw_color(rng, 0.6) if rng.random() < 0.4 else np.array([0.55, 0.43, 0.32]) * rng.uniform(0.5, 1.5)
    ground = Item("floor", "floor")
    top = Item("", "ceiling")
    paint = tinted(rng, "plain", np.full(3, rng.uniform(0.75, 0.93)), 0.03)
    for x0, x1, y0, y1 in plan.rectangles:
        if not ground.parts:
            ground.add("surface", tinted(rng, kind, np.clip(color, 0.08, 0.9), 0.03, rng.uniform(0.09, 0.18)))
            top.add("surface", paint)
        ground.parts[0].primitives.append([quad((x0, y0, 0), (x1 - x0, 0, 0), (0, y1 - y0, 0))])
        top.parts[0].primitives.append([quad((x0, y1, plan.height), (x1 - x0, 0, 0), (0, y0 - y1, 0))])
    return [*items, ground, top]


def hallway(rng: Rng, w: float, h: float, depth: float) -> tuple[Item, Item, Item]:
    """The stub behind an open door of width w: wall, floor and ceiling items; the door's wall is the plane y = 0, the
    stub lies at y < 0.
    """
    paint = tinted(rng, "plain", draw_color(rng), 0.02)
    walls = Item("wall", "wall")
    walls.add(
        "surface", paint,
        [quad((w / 2, -depth, 0), (-w, 0, 0), (0, 0, h))],
        [quad((-w / 2, -depth, 0), (0, depth, 0), (0, 0, h))],
        [quad((w / 2, 0, 0), (0, -depth, 0), (0, 0, h))],
    )  # fmt: skip
    ground = Item("floor", "floor")
    ground.add(
        "surface", tinted(rng, "planks", draw_color(rng), 0.02), [quad((-w / 2, -depth, 0), (w, 0, 0), (0, depth, 0))]
    )
    top = Item("", "ceiling")
    top.add("surface", tinted(rng, "plain", np.full(3, 0.85), 0.02), [quad((-w / 2, 0, h), (w, 0, 0), (0, -depth, 0))])
    return walls, ground, top
