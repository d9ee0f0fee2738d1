"""Procedural textures: colour as a pure function of surface coordinates.

For furniture, both the pattern and its colours are drawn without looking at the class, so that colour says (almost)
nothing about what a thing is. Textures are functions, not pictures: Gaussians and mesh vertices see the same surface.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Texture:
    """`kind` is a key of PATTERNS; colors [3, 3] linear RGB albedo; `scale` the pattern's size in metres; `seed` makes
    it unique.
    """

    kind: str
    colors: F64
    scale: float
    seed: int

    def albedo(self, uv: F64, unit: F64) -> F64:
        """Colours [K, 3] at `uv` [K, 2] metres along the patch, `unit` [K, 2] the same in 0..1 of its extent."""
        return np.clip(PATTERNS[self.kind](self, uv, unit), 0.01, 0.98)


def hash01(ix: NDArray[np.int64], iy: NDArray[np.int64], seed: int) -> F64:
    """A uniform number in [0, 1) per integer lattice point (splitmix-like finaliser): the same on every machine."""
    with np.errstate(over="ignore"):
        h = ix.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + iy.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
        h += np.uint64((seed * 0x165667B19E3779F9) % 2**64)
        h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((h ^ (h >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def value_noise(x: F64, y: F64, seed: int) -> F64:
    """Smooth noise in [0, 1) with features of size 1."""
    fx, fy = np.floor(x), np.floor(y)
    ix, iy = fx.astype(np.int64), fy.astype(np.int64)
    tx, ty = x - fx, y - fy
    tx, ty = tx * tx * (3 - 2 * tx), ty * ty * (3 - 2 * ty)
    a, b = hash01(ix, iy, seed), hash01(ix + 1, iy, seed)
    c, d = hash01(ix, iy + 1, seed), hash01(ix + 1, iy + 1, seed)
    return (a * (1 - tx) + b * tx) * (1 - ty) + (c * (1 - tx) + d * tx) * ty


def _mix(t: Texture, w: F64, i: int = 0, j: int = 1) -> F64:
    return t.colors[i] + w[:, None] * (t.colors[j] - t.colors[i])


def _plain(t: Texture, uv: F64, unit: F64) -> F64:
    n = value_noise(uv[:, 0] / 0.35, uv[:, 1] / 0.35, t.seed)
    return t.colors[0] * (0.96 + 0.08 * n)[:, None]


def _wood(t: Texture, uv: F64, unit: F64) -> F64:
    u, v = (uv[:, 1], uv[:, 0]) if t.seed % 2 else (uv[:, 0], uv[:, 1])
    warp = value_noise(u / 0.5, v / 0.12, t.seed)
    return _mix(t, 0.7 * value_noise(u / (6 * t.scale), v / (0.35 * t.scale) + 2 * warp, t.seed + 1))


def _planks(t: Texture, uv: F64, unit: F64) -> F64:
    u, v = (uv[:, 1], uv[:, 0]) if t.seed % 2 else (uv[:, 0], uv[:, 1])
    row = np.floor(v / t.scale).astype(np.int64)
    col = np.floor(u / (8 * t.scale) + hash01(row, row * 0, t.seed)).astype(np.int64)
    shade = hash01(col, row, t.seed + 1)
    seam = (v / t.scale - row < 0.06) * 0.3
    return _mix(t, 0.8 * shade) * (1 - seam)[:, None]


def _stripes(t: Texture, uv: F64, unit: F64) -> F64:
    s = uv[:, t.seed % 2] / t.scale
    return _mix(t, (s - np.floor(s) < 0.5).astype(np.float64))


def _checker(t: Texture, uv: F64, unit: F64) -> F64:
    return _mix(t, (np.floor(uv / t.scale).astype(np.int64).sum(1) % 2).astype(np.float64))


def _tiles(t: Texture, uv: F64, unit: F64) -> F64:
    s = uv / (2.5 * t.scale)
    cell = np.floor(s).astype(np.int64)
    grout = np.minimum(s[:, 0] - cell[:, 0], s[:, 1] - cell[:, 1]) < 0.07
    tone = 0.93 + 0.1 * hash01(cell[:, 0], cell[:, 1], t.seed)
    return np.where(grout[:, None], t.colors[0] * 0.84, t.colors[0] * tone[:, None])


def _speckle(t: Texture, uv: F64, unit: F64) -> F64:
    blot = value_noise(uv[:, 0] / (0.3 * t.scale), uv[:, 1] / (0.3 * t.scale), t.seed) > 0.62
    return _mix(t, np.where(blot, 0.8, 0.0))


def _fabric(t: Texture, uv: F64, unit: F64) -> F64:
    fine = value_noise(uv[:, 0] / 0.02, uv[:, 1] / 0.02, t.seed)
    coarse = value_noise(uv[:, 0] / (2 * t.scale), uv[:, 1] / (2 * t.scale), t.seed + 1)
    return _mix(t, 0.35 * fine + 0.25 * coarse)


def _marble(t: Texture, uv: F64, unit: F64) -> F64:
    warp = value_noise(uv[:, 0] / (2 * t.scale), uv[:, 1] / (2 * t.scale), t.seed)
    vein = 1 - np.abs(2 * value_noise(uv[:, 0] / t.scale + 3 * warp, uv[:, 1] / t.scale + 3 * warp, t.seed + 1) - 1)
    return _mix(t, 0.7 * vein**4)


def _blobs(t: Texture, uv: F64, unit: F64) -> F64:
    """Pictures: a horizon with a few discs and a band; content, not a known image."""
    out = _mix(t, value_noise(3 * unit[:, 0], 5 * unit[:, 1], t.seed))
    horizon = 0.25 + 0.5 * hash01(np.array([1]), np.array([1]), t.seed)[0]
    out[unit[:, 1] < horizon] = t.colors[2]
    for i in range(4):
        cx, cy, r, c = hash01(np.arange(4), np.full(4, i), t.seed + 7)
        inside = ((unit - [cx, cy]) ** 2).sum(1) < (0.06 + 0.18 * r) ** 2
        out[inside] = np.roll(t.colors[int(c * 3)], i)
    return out


def _spines(t: Texture, uv: F64, unit: F64) -> F64:
    """Rows of books: a colour of its own for each spine along u."""
    s = uv[:, 0] / 0.045 + 2 * value_noise(uv[:, 0] / 0.2, uv[:, 0] * 0, t.seed)
    book = np.floor(s).astype(np.int64)
    rgb = np.stack([hash01(book, np.full_like(book, i), t.seed) for i in range(3)], axis=1)
    return 0.12 + 0.75 * rgb * (0.6 + 0.4 * t.colors[0])


def _sky(t: Texture, uv: F64, unit: F64) -> F64:
    """What a window shows: bright sky over a dim skyline."""
    line = 0.2 + 0.25 * value_noise(6 * unit[:, 0], unit[:, 0] * 0, t.seed)
    sky = t.colors[0] + (1 - unit[:, 1:]) * 0.1
    return np.where((unit[:, 1] < line)[:, None], t.colors[1] * 0.8, sky)


PATTERNS: dict[str, Callable[[Texture, F64, F64], F64]] = {
    "plain": _plain, "wood": _wood, "planks": _planks, "stripes": _stripes, "checker": _checker, "tiles": _tiles,
    "speckle": _speckle,
    "fabric": _fabric, "marble": _marble, "blobs": _blobs, "spines": _spines, "sky": _sky,
}  # fmt: skip

#: Patterns that furniture may wear, whatever its class, and how often.
FURNITURE_PATTERNS = (
    ("plain", 0.34),
    ("wood", 0.22),
    ("fabric", 0.16),
    ("stripes", 0.08),
    ("checker", 0.06),
    ("speckle", 0.08),
    ("marble", 0.06),
)


def draw_color(rng: np.random.Generator, saturation: float = 1.0) -> F64:
    """One albedo [3] from a mixture of greys, browns and free hues, the same for every class of furniture."""
    kind = rng.random()
    if kind < 0.33:
        value = rng.uniform(0.06, 0.92)
        rgb = np.full(3, value) + rng.normal(0, 0.02, 3)
    elif kind < 0.60:
        rgb = np.array([0.62, 0.42, 0.25]) * rng.uniform(0.35, 1.45) + rng.normal(0, 0.03, 3)
    else:
        hue, s, v = rng.random(), rng.uniform(0.15, 0.85) * saturation, rng.uniform(0.2, 0.95)
        rgb = v * (1 - s * np.clip(np.abs(((hue * 6 + np.array([0, 4, 2])) % 6) - 3) - 1, 0, 1))
    return np.clip(rgb, 0.03, 0.97)


def draw_texture(rng: np.random.Generator, saturation: float = 1.0) -> Texture:
    """A random furniture texture."""
    kinds, weights = zip(*FURNITURE_PATTERNS)
    kind = str(rng.choice(kinds, p=np.asarray(weights)))
    first = draw_color(rng, saturation)
    near = np.clip(first * rng.uniform(0.55, 0.85), 0.02, 0.97)  # grain and weave are darker shades of the same colour
    second = near if kind in ("wood", "fabric", "marble") else draw_color(rng, saturation)
    return Texture(
        kind, np.stack([first, second, draw_color(rng)]), float(rng.uniform(0.05, 0.16)), int(rng.integers(2**31))
    )


def tinted(
    rng: np.random.Generator, kind: str, color: F64, spread: float = 0.05, scale: float | None = None
) -> Texture:
    """A texture of a given kind about a given colour: walls, floors, sanitary ware, panes."""
    first = np.clip(color + rng.normal(0, spread, 3), 0.03, 0.97)
    return Texture(
        kind,
        np.stack([first, np.clip(first * rng.uniform(0.6, 0.85), 0.02, 0.97), draw_color(rng)]),
        float(rng.uniform(0.08, 0.2)) if scale is None else scale,
        int(rng.integers(2**31)),
    )


@dataclass(frozen=True, eq=False)
class Style:
    """The textures of one object: its main surface, a second one (legs, frame) and an accent (handles, cushions)."""

    main: Texture
    second: Texture
    accent: Texture


def draw_style(rng: np.random.Generator, saturation: float = 1.0) -> Style:
    """Textures of one object, drawn without knowing what the object is."""
    main = draw_texture(rng, saturation)
    second = main if rng.random() < 0.35 else draw_texture(rng, saturation)
    return Style(main, second, draw_texture(rng, saturation))
