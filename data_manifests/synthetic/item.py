"""An object of a room before and after it is put somewhere: parts made of primitives, its solid boxes, its support
surfaces.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_manifests.synthetic.shapes import Patch, Vec, moved
from data_manifests.synthetic.textures import Texture

F64 = NDArray[np.float64]


@dataclass(eq=False)
class ItemPart:
    """A named part ("seat") with one texture; `primitives` are lists of patches (a box, a leg)."""

    name: str
    texture: Texture
    primitives: list[list[Patch]] = field(default_factory=list)
    gloss: float = 0.0  # share of extra brightness on surfaces that face the light: glass, ceramic, screens


@dataclass(frozen=True)
class Support:
    """A flat place on which small things can stand: x0..x1, y0..y1 at height z, with `clear` metres of air above."""

    x0: float
    x1: float
    y0: float
    y1: float
    z: float
    clear: float = 0.6


@dataclass(eq=False)
class Item:
    """An object in its own frame: metres, z up, standing on z = 0, its back towards -y, looking towards +y.

    label: a ScanNet20 name, or "" for what ScanNet20 does not name. category: the raw ScanNet category, which maps to
    `label` through ScanNet's own table. solids [S, 2, 3]: corner boxes that nothing else may enter (one per primitive
    unless `hull`, then one in all).
    """

    label: str
    category: str
    parts: list[ItemPart] = field(default_factory=list)
    supports: list[Support] = field(default_factory=list)
    hull: bool = False
    detail: float = 1.0  # sampling distance relative to the room's; below 1 for small things
    back_clearance: float = 0.02

    def add(self, part: str, texture: Texture, *primitives: list[Patch], gloss: float = 0.0) -> None:
        """Append primitives to the part of that name, which is made if needed."""
        for known in self.parts:
            if known.name == part:
                known.primitives.extend(primitives)
                return
        self.parts.append(ItemPart(part, texture, list(primitives), gloss))

    @property
    def solids(self) -> F64:
        """Corner boxes [S, 2, 3] in the item's frame."""
        boxes = np.array([_bounds(primitive) for part in self.parts for primitive in part.primitives])
        return np.array([[boxes[:, 0].min(0), boxes[:, 1].max(0)]]) if self.hull else boxes

    @property
    def closed_boxes(self) -> F64:
        """Corner boxes [B, 2, 3] of the primitives that are true boxes: what they cover is hidden for good.

        Turned boxes (an open door, a leaning back) do not count: they do not fill their corner box.
        """
        boxes = [_bounds(p) for part in self.parts for p in part.primitives if len(p) > 2 and all(map(_upright, p))]
        return np.array(boxes).reshape(-1, 2, 3)

    @property
    def bounds(self) -> F64:
        """The corner box of the whole item, [2, 3]."""
        boxes = np.array([_bounds(primitive) for part in self.parts for primitive in part.primitives])
        return np.array([boxes[:, 0].min(0), boxes[:, 1].max(0)])


def _upright(patch: Patch) -> bool:
    """Whether a patch is a rectangle in one of the three coordinate planes."""
    return patch.shape[:2] == (2, 2) and bool((np.ptp(patch.reshape(-1, 3), axis=0) < 1e-9).any())


def _bounds(primitive: list[Patch]) -> F64:
    points = np.concatenate([patch.reshape(-1, 3) for patch in primitive])
    return np.array([points.min(0), points.max(0)])


@dataclass(frozen=True, eq=False)
class Placed:
    """An item at (x, y, z) [m] with `yaw` [rad] in the frame of the room."""

    item: Item
    position: F64
    yaw: float

    def patches(self, part: ItemPart) -> list[Patch]:
        """The patches of one part in room coordinates."""
        return [p for primitive in part.primitives for p in moved(primitive, tuple(self.position), self.yaw)]

    def boxes(self) -> F64:
        """Solids as oriented boxes [S, 8] in the room: centre x, centre y, half width, half depth, cos yaw, sin yaw,
        z0, z1.
        """
        return oriented(self.item.solids, self.position, self.yaw)


def oriented(solids: F64, position: F64 | Vec, yaw: float) -> F64:
    """Corner boxes [S, 2, 3] of an item at `position` with `yaw` -> [S, 8] (see `Placed.boxes`)."""
    c, s = np.cos(yaw), np.sin(yaw)
    mid, half = solids.mean(1), (solids[:, 1] - solids[:, 0]) / 2
    out = np.empty((len(solids), 8))
    out[:, 0] = c * mid[:, 0] - s * mid[:, 1] + position[0]
    out[:, 1] = s * mid[:, 0] + c * mid[:, 1] + position[1]
    out[:, 2:4], out[:, 4], out[:, 5] = half[:, :2], c, s
    out[:, 6], out[:, 7] = solids[:, 0, 2] + position[2], solids[:, 1, 2] + position[2]
    return out


def overlapping(a: F64, b: F64, margin: float = 0.0) -> NDArray[np.bool_]:
    """Which pairs of oriented boxes [A, 8], [B, 8] share volume, [A, B]; `margin` metres grows both in the plane (half
    each).

    Separating axis test in the plane (yaw only) and an interval test along z.
    """
    result = (a[:, None, 6] < b[None, :, 7] - 1e-6) & (b[None, :, 6] < a[:, None, 7] - 1e-6)
    if not result.any():
        return result
    delta = b[None, :, :2] - a[:, None, :2]
    cos = np.abs(a[:, None, 4] * b[None, :, 4] + a[:, None, 5] * b[None, :, 5])
    sin = np.abs(a[:, None, 4] * b[None, :, 5] - a[:, None, 5] * b[None, :, 4])
    for boxes, other in ((a[:, None], b[None]), (b[None], a[:, None])):
        c, s = boxes[..., 4], boxes[..., 5]
        along_x = np.abs(delta[..., 0] * c + delta[..., 1] * s)
        along_y = np.abs(-delta[..., 0] * s + delta[..., 1] * c)
        result = result & (along_x < boxes[..., 2] + other[..., 2] * cos + other[..., 3] * sin + margin - 1e-6)
        result = result & (along_y < boxes[..., 3] + other[..., 2] * sin + other[..., 3] * cos + margin - 1e-6)
    return result
