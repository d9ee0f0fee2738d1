"""Where things stand: a room with its walls, what is already placed, and moves that place one more thing without
collision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_manifests.synthetic import openings
from data_manifests.synthetic.item import Item, Placed, oriented, overlapping
from data_manifests.synthetic.plan import Edge, Plan, hallway
from data_manifests.synthetic.shapes import Vec
from data_manifests.synthetic.textures import Style, draw_style

F64 = NDArray[np.float64]
Rng = np.random.Generator
Maker = Callable[[Rng, Style], Item]

_NONE = np.empty((0, 8))


@dataclass(eq=False)
class RoomLayout:
    """The growing list of placed items of one room.

    `groups[i]` is the assembly that placed item i belongs to: members of one assembly (a sink in its counter) may nest,
    all others never share volume. `zones` are boxes to be kept free (door swings, in front of windows).
    """

    rng: Rng
    plan: Plan
    saturation: float = 1.0
    placed: list[Placed] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    boxes: F64 = field(default_factory=lambda: _NONE)
    zones: F64 = field(default_factory=lambda: _NONE)
    windows: list[tuple[Edge, float, float, float, float]] = field(default_factory=list)  # edge, s, width, z0, z1

    def make(self, maker: Maker) -> Item:
        """A new item with a style drawn without knowing what it is for."""
        return maker(self.rng, draw_style(self.rng, self.saturation))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    @contextmanager
    def zones_open(self) -> Iterator[None]:
        """Nothing is kept free inside: for the one thing that a zone is kept free for."""
        zones, self.zones = self.zones, _NONE
        yield
        self.zones = zones

    # ---- tests ----

    def free(self, boxes: F64, margin: float = 0.03, *, zones: bool = True) -> bool:
        """Whether oriented boxes [S, 8] lie in the room and clear of everything placed (and of the zones)."""
        corners = _corners(boxes, 0.004)
        if not self.plan.contains(corners).all() or boxes[:, 7].max() > self.plan.height - 0.01:
            return False
        inner = self.plan.corners
        if len(inner) > 4 and overlapping(boxes, _posts(inner, self.plan.height)).any():
            return False
        if overlapping(boxes, self.boxes, margin).any():
            return False
        return not (zones and overlapping(boxes, self.zones).any())

    # ---- moves; each returns what it placed, or None where nothing fits ----

    def put(self, item: Item, position: Vec | F64, yaw: float, group: int | None = None) -> Placed:
        """Place without testing."""
        placed = Placed(item, np.asarray(position, dtype=np.float64), yaw)
        self.placed.append(placed)
        self.groups.append(len(self.groups) if group is None else group)
        self.boxes = np.concatenate([self.boxes, placed.boxes()])
        return placed

    def try_put(
        self, item: Item, position: tuple[float, float, float], yaw: float, margin: float = 0.03, *, zones: bool = True
    ) -> Placed | None:
        """Place if it fits."""
        if not self.free(oriented(item.solids, position, yaw), margin, zones=zones):
            return None
        return self.put(item, position, yaw)

    def keep_free(
        self,
        lo: tuple[float, float, float],
        hi: tuple[float, float, float],
        position: tuple[float, float, float],
        yaw: float,
    ) -> None:
        """Keep a box (given in the frame of an item at `position`) empty from now on."""
        self.zones = np.concatenate([self.zones, oriented(np.array([[lo, hi]]), position, yaw)])

    def against_wall(
        self,
        item: Item,
        z: float = 0.0,
        front: float = 0.0,
        tries: int = 40,
        corner: bool = False,
        edges: list[Edge] | None = None,
    ) -> Placed | None:
        """With its back to a wall; `front` metres before it must be free at that moment and stay so."""
        lo, hi = item.bounds
        width = hi[0] - lo[0]
        walls = [e for e in (edges or self.plan.edges) if e.length > width + 0.02]
        if not walls:
            return None
        weights = np.array([e.length for e in walls])
        for _ in range(tries):
            edge = walls[self.rng.choice(len(walls), p=weights / weights.sum())]
            room = edge.length - width
            s = self.rng.uniform(0, room)
            if corner or self.rng.random() < 0.25:
                s = min(0.03, room / 2) if self.rng.random() < 0.5 else room - min(0.03, room / 2)
            gap = item.back_clearance + (self.rng.uniform(0, 0.04) if z == 0.0 and item.back_clearance > 0.01 else 0.0)
            at = edge.point(s - lo[0], gap - lo[1])
            position, yaw = (float(at[0]), float(at[1]), z), edge.yaw
            if not edge.clear(s - 0.05, s + width + 0.05, z, z + hi[2]):
                continue
            if front > 0:
                space = oriented(np.array([[[lo[0], hi[1] + 0.03, 0.0], [hi[0], hi[1] + front, 0.9]]]), position, yaw)
                if not self.free(space, 0.0, zones=False):
                    continue
            if (placed := self.try_put(item, position, yaw)) is not None:
                if front > 0:
                    self.keep_free((lo[0], hi[1] + 0.03, 0.0), (hi[0], hi[1] + min(front, 0.45), 0.9), position, yaw)
                return placed
        return None

    def anywhere(self, item: Item, tries: int = 20, margin: float = 0.06, wall_gap: float = 0.0) -> Placed | None:
        """Somewhere on the floor, turned at random by multiples of 90 degrees and a little."""
        lo, hi = self.plan.corners.min(0), self.plan.corners.max(0)
        for _ in range(tries):
            at = self.rng.uniform(lo, hi)
            yaw = float(self.rng.integers(4) * np.pi / 2 + self.rng.normal(0, 0.06))
            if wall_gap and self.plan.wall_distance(at[None])[0] < wall_gap:
                continue
            if (placed := self.try_put(item, (at[0], at[1], 0.0), yaw, margin)) is not None:
                return placed
        return None

    def facing(
        self,
        item: Item,
        target: Placed,
        angle: float,
        gaps: tuple[float, ...],
        shift: float = 0.0,
        turn: float = 0.0,
        margin: float = 0.02,
    ) -> Placed | None:
        """Beside `target`, on its side at `angle` (in its frame, 0 = +y), looking at it; the first of `gaps` metres
        that fits.
        A negative gap pushes the item under the target."""
        lo, hi = target.item.bounds
        half = (hi - lo)[:2] / 2
        direction = np.array([-np.sin(angle), np.cos(angle)])
        reach = float(np.abs(direction) @ half) if abs(direction[0] * direction[1]) < 1e-6 else float(half.min())
        sideways = np.array([direction[1], -direction[0]])
        c, s = np.cos(target.yaw), np.sin(target.yaw)
        yaw = target.yaw + angle + np.pi + turn
        front = item.bounds[1, 1]
        for gap in gaps:
            local = (lo + hi)[:2] / 2 + direction * (reach + gap + front) + shift * sideways
            x, y = target.position[0] + c * local[0] - s * local[1], target.position[1] + s * local[0] + c * local[1]
            if (placed := self.try_put(item, (float(x), float(y), 0.0), float(yaw), margin)) is not None:
                return placed
        return None

    def beside(self, item: Item, target: Placed, side: int, gap: float) -> Placed | None:
        """Left (-1) or right (1) of `target`, backs flush, looking the same way."""
        lo, hi = target.item.bounds
        low, high = item.bounds
        x = hi[0] + gap - low[0] if side > 0 else lo[0] - gap - high[0]
        y = lo[1] - low[1]
        c, s = np.cos(target.yaw), np.sin(target.yaw)
        position = (float(target.position[0] + c * x - s * y), float(target.position[1] + s * x + c * y), 0.0)
        return self.try_put(item, position, target.yaw, 0.01)

    def on_top(self, target: Placed, makers: tuple[Maker, ...], count: int, facing: bool = False) -> list[Placed]:
        """Small things on the support surfaces of `target`."""
        out: list[Placed] = []
        for _ in range(count):
            item = self.make(makers[self.rng.integers(len(makers))])
            for support in target.item.supports:
                if (
                    placed := self.set_on(
                        target, item, support.x0, support.x1, support.y0, support.y1, support.z, facing
                    )
                ) is not None:
                    out.append(placed)
                    break
        return out

    def set_on(
        self,
        target: Placed,
        item: Item,
        x0: float,
        x1: float,
        y0: float,
        y1: float,
        z: float,
        facing: bool = False,
        tries: int = 5,
    ) -> Placed | None:
        """Stand `item` within x0..x1, y0..y1 of the target's frame at height z."""
        lo, hi = item.bounds
        c, s = np.cos(target.yaw), np.sin(target.yaw)
        if x1 - x0 < hi[0] - lo[0] or y1 - y0 < hi[1] - lo[1]:
            return None
        for _ in range(tries):
            x, y = self.rng.uniform(x0 - lo[0], x1 - hi[0] + 1e-9), self.rng.uniform(y0 - lo[1], y1 - hi[1] + 1e-9)
            turn = float(self.rng.normal(0, 0.1)) if facing else float(self.rng.uniform(-0.5, 0.5))
            base = target.position
            position = (float(base[0] + c * x - s * y), float(base[1] + s * x + c * y), float(base[2] + z))
            if (placed := self.try_put(item, position, target.yaw + turn, 0.01, zones=False)) is not None:
                return placed
        return None

    def on_wall(
        self, item: Item, z: float, tries: int = 12, edge: Edge | None = None, s: float | None = None
    ) -> Placed | None:
        """Hang an item on a wall with its lower edge at z."""
        lo, hi = item.bounds
        width = hi[0] - lo[0]
        for _ in range(tries):
            wall = edge or self.plan.edges[self.rng.integers(len(self.plan.edges))]
            if wall.length < width + 0.3:
                continue
            at_s = float(self.rng.uniform(width / 2 + 0.1, wall.length - width / 2 - 0.1)) if s is None else s
            if not wall.clear(at_s - width / 2 - 0.1, at_s + width / 2 + 0.1, z, z + hi[2]):
                continue
            at = wall.point(at_s - (lo[0] + hi[0]) / 2, item.back_clearance - lo[1])
            if (placed := self.try_put(item, (float(at[0]), float(at[1]), z), wall.yaw)) is not None:
                return placed
            if s is not None:
                return None
        return None

    # ---- openings ----

    def door(self) -> Placed | None:
        """Cut a door into a wall; a closed one, or an open one with a stub of hallway behind."""
        rng = self.rng
        w, h = rng.uniform(0.8, 0.95), min(rng.uniform(1.98, 2.1), self.plan.height - 0.12)
        for _ in range(20):
            edge = self.plan.edges[rng.integers(len(self.plan.edges))]
            if edge.length < w + 0.4:
                continue
            s = float(rng.uniform(w / 2 + 0.15, edge.length - w / 2 - 0.15))
            if not edge.clear(s - w / 2 - 0.25, s + w / 2 + 0.25):
                continue
            opening, hinge = (
                (float(rng.uniform(0.4, 1.75)), int(rng.choice([-1, 1]))) if rng.random() < 0.45 else (0.0, 1)
            )
            at = edge.point(s)
            position, yaw = (float(at[0]), float(at[1]), 0.0), edge.yaw
            style = draw_style(rng, self.saturation)
            item = openings.door(rng, style, w, h, opening, hinge)
            boxes = oriented(item.solids, position, yaw)
            if overlapping(boxes, self.boxes, 0.02).any() or not self._leaf_inside(boxes):
                continue
            edge.holes.append((s - w / 2, s + w / 2, 0.0, h))
            self.keep_free((-w / 2 - 0.05, 0.0, 0.0), (w / 2 + 0.05, 0.9, h), position, yaw)
            placed = self.put(item, position, yaw)
            if opening > 0:
                for stub in hallway(rng, w, h, rng.uniform(0.7, 1.2)):
                    self.put(stub, position, yaw, group=self.groups[-1])
            return placed
        return None

    def _leaf_inside(self, boxes: F64) -> bool:
        corners = _corners(boxes, 0.0)
        distance = self.plan.wall_distance(corners)
        return bool((self.plan.contains(corners) | (distance < 0.2)).all())

    def window(self) -> Placed | None:
        """Cut a window into a wall."""
        rng = self.rng
        w, sill = rng.uniform(0.8, 2.0), rng.uniform(0.35, 1.0)
        h = min(rng.uniform(0.9, 1.6), self.plan.height - sill - 0.25)
        for _ in range(15):
            edge = self.plan.edges[rng.integers(len(self.plan.edges))]
            if edge.length < w + 0.5:
                continue
            s = float(rng.uniform(w / 2 + 0.2, edge.length - w / 2 - 0.2))
            if not edge.clear(s - w / 2 - 0.25, s + w / 2 + 0.25):
                continue
            at = edge.point(s)
            position = (float(at[0]), float(at[1]), float(sill))
            item = openings.window(rng, draw_style(rng, self.saturation), w, h)
            if overlapping(oriented(item.solids, position, edge.yaw), self.boxes, 0.02).any():
                continue
            edge.holes.append((s - w / 2, s + w / 2, sill, sill + h))
            self.keep_free((-w / 2, 0.0, 0.0), (w / 2, 0.25, h), position, edge.yaw)
            self.windows.append((edge, s, float(w), float(sill), float(sill + h)))
            return self.put(item, position, edge.yaw)
        return None

    def curtain(self, index: int) -> Placed | None:
        """Hang curtains before window `index`."""
        edge, s, w, z0, z1 = self.windows[index]
        rng = self.rng
        span = min(w + rng.uniform(0.2, 0.5), 2 * min(s, edge.length - s) - 0.2)
        top = min(z1 + rng.uniform(0.05, 0.3), self.plan.height - 0.06)
        foot = 0.03 if rng.random() < 0.6 else z0 - 0.12
        item = openings.curtain(rng, draw_style(rng, self.saturation), span, foot, top, pair=bool(rng.random() < 0.7))
        at = edge.point(s, 0.16)
        return self.try_put(item, (float(at[0]), float(at[1]), 0.0), edge.yaw, 0.0, zones=False)


def _corners(boxes: F64, shrink: float) -> F64:
    """The four corners in the plane of oriented boxes [S, 8], [4 S, 2], drawn in by `shrink` metres."""
    c, s = boxes[:, 4], boxes[:, 5]
    out = []
    for a in (-1, 1):
        for b in (-1, 1):
            dx, dy = a * np.maximum(boxes[:, 2] - shrink, 0), b * np.maximum(boxes[:, 3] - shrink, 0)
            out.append(np.stack([boxes[:, 0] + c * dx - s * dy, boxes[:, 1] + s * dx + c * dy], axis=1))
    return np.concatenate(out)


def _posts(corners: F64, height: float) -> F64:
    """Thin posts just outside the reflex corners of a counter-clockwise polygon: what crosses a wall there hits one.
    [R, 8]
    """
    before, after = corners - np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0) - corners
    reflex = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0] < 0
    outward = after - before  # at a reflex corner the solid lies towards (after - before)
    outward = outward / np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-9)
    at = (corners + 0.03 * outward)[reflex]
    out = np.zeros((len(at), 8))
    out[:, :2], out[:, 2:4], out[:, 4], out[:, 7] = at, 0.015, 1.0, height
    return out
