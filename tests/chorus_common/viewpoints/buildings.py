"""Synthetic captures of buildings: rooms with doors, windows and furniture; facade, roof, garden, trees and floaters.

Everything is made of rectangles that carry flat Gaussians, so a test knows what is a wall and where the inside is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from chorus_common.scene import GaussianScene, canonical_quats

F64 = NDArray[np.float64]
Face = tuple[F64, F64, F64]  # corner, edge, edge
DOOR = (0.95, 2.0)  # width, height


@dataclass(frozen=True, eq=False)
class Building:
    """rooms [R, 2, 3]: low and high corners of the air in each; furniture [B, 2, 3]: solid boxes; inner [N] bool: the
    Gaussians of walls, floors, ceilings and furniture as seen from inside.
    """

    scene: GaussianScene
    rooms: F64
    furniture: F64
    inner: NDArray[np.bool_]

    def room_of(self, points: F64) -> NDArray[np.int64]:
        """[P]: the room that each point lies in; -1 outside all."""
        inside = ((points[:, None] > self.rooms[None, :, 0]) & (points[:, None] < self.rooms[None, :, 1])).all(axis=2)
        return np.where(inside.any(axis=1), inside.argmax(axis=1), -1)

    def in_furniture(self, points: F64) -> NDArray[np.bool_]:
        low, high = self.furniture[None, :, 0], self.furniture[None, :, 1]
        return np.asarray(((points[:, None] > low) & (points[:, None] < high)).all(axis=2).any(axis=1))


def box_faces(low: F64, high: F64, bottom: bool = True) -> list[Face]:
    """The faces of an axis-aligned box."""
    size = np.diag(high - low)
    faces = []
    for axis in range(3):
        u, v = size[(axis + 1) % 3], size[(axis + 2) % 3]
        if bottom or axis != 2:
            faces.append((low, u, v))
        faces.append((low + size[axis], u, v))
    return faces


def wall_with_hole(a: F64, b: F64, z0: float, z1: float, hole: tuple[float, float, float, float] | None) -> list[Face]:
    """A wall from a [2] to b [2]; hole = (from, to) metres along it and (from, to) in height, left open."""
    length = float(np.linalg.norm(b - a))
    along = (b - a) / length

    def piece(s0: float, s1: float, low: float, high: float) -> list[Face]:
        if s1 - s0 < 1e-6 or high - low < 1e-6:
            return []
        corner = np.array([*(a + along * s0), low])
        return [(corner, np.array([*(along * (s1 - s0)), 0.0]), np.array([0.0, 0.0, high - low]))]

    if hole is None:
        return piece(0, length, z0, z1)
    s0, s1, low, high = hole
    return (
        piece(0, s0, z0, z1) + piece(s1, length, z0, z1) + piece(s0, s1, z0, low) + piece(s0, s1, high, z1)
    )  # fmt: skip


def gaussians_on(faces: list[Face], spacing: float, rng: np.random.Generator) -> GaussianScene:
    """Flat opaque Gaussians, `spacing` metres apart on average, spread at random over rectangles."""
    corner, u, v = (np.array([face[k] for face in faces]) for k in range(3))
    normal = np.cross(u, v)
    area = np.linalg.norm(normal, axis=1)
    normal /= area[:, None]
    n = max(8, int(area.sum() / spacing**2))
    k = rng.choice(len(faces), n, p=area / area.sum())
    points = corner[k] + rng.uniform(size=(n, 1)) * u[k] + rng.uniform(size=(n, 1)) * v[k]
    turn = np.concatenate([1 + normal[k, 2:], np.cross([0.0, 0.0, 1.0], normal[k])], 1)  # takes z to the normal
    turn[np.abs(turn).max(1) < 1e-9] = (0, 1, 0, 0)
    scales = np.tile(np.array([0.7 * spacing, 0.7 * spacing, 0.05 * spacing], np.float32), (n, 1))
    colors = np.clip(0.5 + 0.3 * np.sin(7 * points + k[:, None]), 0, 1).astype(np.float32)
    return GaussianScene(points.astype(np.float32), canonical_quats(turn), scales, np.full(n, 0.95, np.float32), colors)


def join(parts: list[GaussianScene], name: str) -> GaussianScene:
    """All Gaussians of several scenes."""
    fields = {
        key: np.concatenate([getattr(part, key) for part in parts])
        for key in ("means", "quats", "scales", "opacities", "colors")
    }
    return GaussianScene(**fields, name=name)


def floaters(n: int, reach: float, rng: np.random.Generator, size: float = 0.05) -> GaussianScene:
    """Gaussians anywhere within `reach` metres of the origin along every axis."""
    points = rng.uniform(-reach, reach, (n, 3)).astype(np.float32)
    quats = canonical_quats(rng.normal(size=(n, 4)))
    scales = (size * np.exp(0.5 * rng.normal(size=(n, 3)))).astype(np.float32)
    return GaussianScene(
        points, quats, scales, rng.uniform(0.1, 0.9, n).astype(np.float32), np.full((n, 3), 0.6, np.float32)
    )


def ground_around(low: F64, high: F64, width: float, z: float) -> list[Face]:
    """Ground `width` metres wide in both directions, without the rectangle from low [2] to high [2]."""
    centre = (low + high) / 2
    a, b = centre - width / 2, centre + width / 2

    def strip(x0: float, y0: float, x1: float, y1: float) -> Face:
        return np.array([x0, y0, z]), np.array([x1 - x0, 0, 0]), np.array([0, y1 - y0, 0])

    return [
        strip(a[0], a[1], b[0], low[1]), strip(a[0], high[1], b[0], b[1]),
        strip(a[0], low[1], low[0], high[1]), strip(high[0], low[1], b[0], high[1]),
    ]  # fmt: skip


def make_building(
    seed: int,
    columns: int = 3,
    rows: int = 2,
    storeys: int = 1,
    spacing: float = 0.06,
    garden: float = 40.0,
    floater_share: float = 0.01,
) -> Building:
    """A house of columns x rows rooms per storey; doors join neighbours, outer rooms have windows."""
    rng = np.random.default_rng(seed)
    widths, depths = rng.uniform(3.0, 5.0, columns), rng.uniform(3.0, 4.5, rows)
    wall, height, slab = 0.16, 2.6, 0.35
    xs, ys = np.concatenate([[0], np.cumsum(widths + wall)]), np.concatenate([[0], np.cumsum(depths + wall)])
    rooms, solids = [], []
    inner: list[Face] = []
    outer: list[Face] = []
    for level in range(storeys):
        z0, z1 = level * (height + slab), level * (height + slab) + height
        # One opening per wall between neighbours, the same for both of its faces.
        across = {(i, j): rng.uniform(0.3, 0.7) for i in range(columns) for j in range(rows)}
        for i in range(columns):
            for j in range(rows):
                low, high = np.array([xs[i], ys[j], z0]), np.array([xs[i] + widths[i], ys[j] + depths[j], z1])
                rooms.append(np.stack([low, high]))
                size = np.diag(high - low)
                inner += [(low, size[0], size[1]), (low + size[2], size[0], size[1])]
                sides = [
                    (low[:2], np.array([high[0], low[1]]), j > 0, (i, j - 1), 0.5),
                    (np.array([low[0], high[1]]), high[:2], j < rows - 1, (i, j), 0.5),
                    (low[:2], np.array([low[0], high[1]]), i > 0, (i - 1, j), across[(i - 1, j)] if i else 0.5),
                    (np.array([high[0], low[1]]), high[:2], i < columns - 1, (i, j), across[(i, j)]),
                ]
                for a, b, neighbour, _, place in sides:
                    middle = place * float(np.linalg.norm(b - a))
                    if neighbour:
                        hole = (middle - DOOR[0] / 2, middle + DOOR[0] / 2, z0, z0 + DOOR[1])
                    else:
                        hole = (middle - 0.5, middle + 0.5, z0 + 0.9, z0 + 1.9)
                    inner += wall_with_hole(a, b, z0, z1, hole)
                for _ in range(4):
                    box = rng.uniform((0.4, 0.4, 0.4), (1.2, 0.8, 1.9))
                    corner = low[:2] + rng.uniform(0, 1, 2) * (high[:2] - low[:2] - box[:2])
                    if _blocks_a_door(corner, corner + box[:2], low, high):
                        continue
                    solid = np.array([[*corner, z0], [*(corner + box[:2]), z0 + box[2]]])
                    solids.append(solid)
                    inner += box_faces(solid[0], solid[1], bottom=False)
    low, high = np.array([-0.3, -0.3]), np.array([xs[-1] - wall + 0.3, ys[-1] - wall + 0.3])
    roof = storeys * (height + slab)
    corners = [low, np.array([high[0], low[1]]), high, np.array([low[0], high[1]])]
    for k in range(4):
        outer += wall_with_hole(corners[k], corners[(k + 1) % 4], -0.1, roof, None)
    outer.append((np.array([*low, roof]), np.array([high[0] - low[0], 0, 0]), np.array([0, high[1] - low[1], 0])))
    parts = [gaussians_on(inner, spacing, rng), gaussians_on(outer, 1.5 * spacing, rng)]
    if garden > 0:
        parts.append(gaussians_on(ground_around(low, high, garden, -0.1), 3 * spacing, rng))
        trees: list[Face] = []
        for _ in range(8):
            turn, away = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.45) * garden
            foot = (low + high) / 2 + away * np.array([np.cos(turn), np.sin(turn)])
            trees += box_faces(np.array([*(foot - 0.15), 0.0]), np.array([*(foot + 0.15), 2.0]))
            trees += box_faces(np.array([*(foot - 1.5), 2.0]), np.array([*(foot + 1.5), 5.0]))
        parts.append(gaussians_on(trees, 2 * spacing, rng))
    n = sum(len(part) for part in parts)
    if floater_share > 0:
        parts.append(floaters(int(floater_share * n), 100.0, rng))
    scene = join(parts, f"building_{seed}")
    inside = np.arange(len(scene)) < len(parts[0])
    return Building(scene, np.array(rooms), np.array(solids).reshape(-1, 2, 3), inside)


def _blocks_a_door(low: F64, high: F64, room_low: F64, room_high: F64) -> bool:
    """Whether furniture stands within the middle of a side, where doors are."""
    middle = (room_low[:2] + room_high[:2]) / 2
    reach = 0.2 * (room_high[:2] - room_low[:2]) + 0.55
    across = (high > middle - reach) & (low < middle + reach)
    return bool(across.any())


def wrapped(room: GaussianScene, seed: int) -> GaussianScene:
    """A closed room as a captured building shows it: a rough shell 0.3 m outside its walls, ground 60 m wide around it,
    1 % floaters up to 200 m away.
    """
    rng = np.random.default_rng(seed)
    low, high = room.means.min(axis=0).astype(np.float64), room.means.max(axis=0).astype(np.float64)
    shell = gaussians_on(box_faces(low - 0.3, high + 0.3, bottom=False), 0.08, rng)
    rough = shell.means + rng.normal(0, 0.04, shell.means.shape).astype(np.float32)
    ground = gaussians_on(ground_around(low[:2] - 0.3, high[:2] + 0.3, 60.0, float(low[2]) - 0.05), 0.25, rng)
    bare = replace(room, labels=None, instances=None) if room.labels is not None else room
    parts = [bare, replace(shell, means=rough), ground]
    parts.append(floaters(int(0.01 * sum(map(len, parts))), 200.0, rng, size=0.3))
    return join(parts, "wrapped")
