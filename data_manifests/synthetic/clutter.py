"""Smaller things: bins, crates, ladders ("other furniture" in ScanNet20), and lamps, plants, boxes, screens, which
ScanNet20 does not name.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data_manifests.synthetic.item import Item, Support
from data_manifests.synthetic.shapes import box, cylinder, lathe, quad, rod, rounded_box, tilted
from data_manifests.synthetic.textures import Style, Texture, draw_texture, tinted

Rng = np.random.Generator


def trash_can(rng: Rng, style: Style) -> Item:
    """An open bin, round or square."""
    item = Item("other furniture", "trash can" if rng.random() < 0.6 else "recycling bin", detail=0.65)
    r, h = rng.uniform(0.13, 0.2), rng.uniform(0.28, 0.5)
    profile = [(0.8 * r, 0.0), (r, h), (r - 0.012, h), (0.8 * r, 0.03), (0.0, 0.03)]
    item.add("body", style.main, lathe(profile, k=16, power=float(rng.choice([2.0, 5.0]))))
    return item


def crate(rng: Rng, style: Style) -> Item:
    """An open crate."""
    item = Item("other furniture", "crate", detail=0.65)
    w, d, h = rng.uniform(0.35, 0.5), rng.uniform(0.28, 0.38), rng.uniform(0.22, 0.32)
    for i in range(3):
        z0, z1 = i * h / 3 + 0.01, (i + 1) * h / 3 - 0.015
        for a in (-1, 1):
            item.add("body", style.main, box((-w / 2, a * d / 2 - 0.008, z0), (w / 2, a * d / 2 + 0.008, z1)))
            item.add("body", style.main, box((a * w / 2 - 0.008, -d / 2, z0), (a * w / 2 + 0.008, d / 2, z1)))
    item.add("body", style.main, [quad((-w / 2, -d / 2, 0.02), (w, 0, 0), (0, d, 0))])
    item.hull = True
    return item


def stepladder(rng: Rng, style: Style) -> Item:
    """Two leaning frames with treads."""
    item = Item("other furniture", "ladder", detail=0.7)
    w, h = rng.uniform(0.4, 0.5), rng.uniform(1.0, 1.7)
    front, back = 0.12 + 0.22 * h, -0.12 - 0.1 * h
    for a in (-1, 1):
        x = a * w / 2
        item.add(
            "rails",
            style.main,
            rod((x, front, 0), (0.85 * x, 0.03, h), 0.022, 5),
            rod((x, back, 0), (0.85 * x, -0.03, h), 0.018, 5),
        )
    for z in np.arange(0.25, h - 0.05, 0.26):
        y = front + (0.03 - front) * z / h
        item.add("treads", style.second, box((-w / 2 + 0.03, y - 0.05, z - 0.015), (w / 2 - 0.03, y + 0.05, z + 0.015)))
    item.hull = True
    return item


def clothing_rack(rng: Rng, style: Style) -> Item:
    """A bar on two posts with a few garments."""
    item = Item("other furniture", "clothing rack", detail=0.8)
    w, h = rng.uniform(0.8, 1.2), rng.uniform(1.4, 1.65)
    item.add("frame", style.second, rod((-w / 2, 0, h), (w / 2, 0, h), 0.016))
    for a in (-1, 1):
        item.add("frame", style.second, rod((a * w / 2, 0, 0.03), (a * w / 2, 0, h), 0.016))
        item.add("frame", style.second, rod((a * w / 2, -0.22, 0.02), (a * w / 2, 0.22, 0.02), 0.018))
    for x in np.sort(rng.uniform(-w / 2 + 0.1, w / 2 - 0.1, int(rng.integers(2, 6)))):
        drop = rng.uniform(0.55, 0.95)
        cloth = rounded_box((x - 0.025, -0.21, h - drop), (x + 0.025, 0.21, h - 0.06), 0.02)
        item.add("clothes", draw_texture(rng), cloth)
    item.hull = True
    return item


def water_cooler(rng: Rng, style: Style) -> Item:
    """A column with a bottle on top."""
    item = Item("other furniture", "water cooler", detail=0.7)
    item.add("body", style.main, rounded_box((-0.16, -0.16, 0), (0.16, 0.16, 0.95), 0.02, skip="b"))
    item.add("bottle", style.second, lathe([(0.06, 0.95), (0.13, 1.05), (0.13, 1.32), (0.0, 1.34)], k=14))
    return item


def floor_lamp(rng: Rng, style: Style) -> Item:
    """Base, pole, shade."""
    item = Item("", "lamp", detail=0.7)
    h, r = rng.uniform(1.35, 1.75), rng.uniform(0.13, 0.22)
    item.add("base", style.second, lathe([(0.15, 0.0), (0.15, 0.025), (0.0, 0.03)], k=16))
    item.add("pole", style.second, rod((0, 0, 0.03), (0, 0, h), 0.014, 5))
    item.add("shade", style.main, lathe([(r, h - 0.12), (rng.uniform(0.5, 0.95) * r, h + 0.14)], k=18), gloss=0.35)
    item.hull = True
    return item


def plant(rng: Rng, style: Style) -> Item:
    """A pot with leaves; small ones for tables through `size`."""
    return _plant(rng, style, rng.uniform(0.75, 1.4))


def _plant(rng: Rng, style: Style, h: float) -> Item:
    item = Item("", "potted plant", detail=0.7)
    r = 0.12 * h + 0.03
    item.add("pot", style.main, lathe([(0.7 * r, 0.0), (r, 0.3 * h), (0.85 * r, 0.29 * h), (0.0, 0.27 * h)], k=14))
    green = tinted(rng, "fabric", np.array([0.2, 0.42, 0.14]), 0.07, 0.1)
    t = np.linspace(0, 1, 5)[:, None]
    for i in range(int(9 + 5 * rng.random())):
        a, spread, top = i * 2.4 + rng.uniform(-0.3, 0.3), rng.uniform(0.12, 0.3) * h, rng.uniform(0.65, 1.0) * h
        width = 0.055 * h * np.sin(np.pi * (0.08 + 0.9 * t))
        radial = spread * t**1.3
        z = 0.28 * h + (top - 0.28 * h) * (t - 0.25 * t**3 * rng.random())
        mid = np.concatenate([radial * np.cos(a), radial * np.sin(a), z], axis=1)  # [5, 3]
        side = np.array([-np.sin(a), np.cos(a), 0.0]) * width
        item.add("leaves", green, [np.stack([mid - side, mid, mid + side], axis=1)])
    item.hull = True
    return item


def cardboard_box(rng: Rng, style: Style) -> Item:
    """A closed box."""
    item = Item("", "box", detail=0.8)
    w, d, h = rng.uniform(0.25, 0.55), rng.uniform(0.22, 0.42), rng.uniform(0.16, 0.42)
    item.add("body", style.main, box((-w / 2, -d / 2, 0), (w / 2, d / 2, h), "b"))
    item.supports.append(Support(-w / 2, w / 2, -d / 2, d / 2, h))
    return item


def monitor(rng: Rng, style: Style) -> Item:
    """A screen on a foot; also stands in for small televisions."""
    return _screen(rng, style, "monitor", rng.uniform(0.48, 0.64))


def television(rng: Rng, style: Style) -> Item:
    """A wide screen."""
    return _screen(rng, style, "tv", rng.uniform(0.85, 1.2))


def _screen(rng: Rng, style: Style, category: str, w: float) -> Item:
    item = Item("", category, detail=0.75)
    h, z = 0.58 * w, 0.06 if category == "tv" else 0.1
    dark = tinted(rng, "plain", np.full(3, 0.07), 0.02)
    lit = Texture("blobs", np.stack([draw_texture(rng).colors[0] for _ in range(3)]), 0.2, int(rng.integers(2**31)))
    item.add("housing", dark, box((-w / 2, -0.025, z), (w / 2, 0.015, z + h)))
    screen = quad((w / 2 - 0.015, 0.017, z + 0.015), (-(w - 0.03), 0, 0), (0, 0, h - 0.03))
    item.add("screen", lit if rng.random() < 0.4 else dark, [screen], gloss=0.2)
    item.add(
        "foot",
        dark,
        box((-0.12, -0.1, 0), (0.12, 0.08, 0.015), "b"),
        box((-0.03, -0.03, 0.015), (0.03, -0.01, z + 0.05)),
    )
    item.hull = True
    return item


def keyboard(rng: Rng, style: Style) -> Item:
    """A flat slab in front of a screen."""
    item = Item("", "keyboard", detail=0.6)
    item.add(
        "body",
        tinted(rng, "checker", np.full(3, rng.uniform(0.1, 0.8)), 0.02, 0.02),
        box((-0.22, -0.07, 0), (0.22, 0.07, 0.022), "b"),
    )
    return item


def laptop(rng: Rng, style: Style) -> Item:
    """Open at about 110 degrees."""
    item = Item("", "laptop", detail=0.6)
    item.add("body", style.main, box((-0.17, -0.12, 0), (0.17, 0.12, 0.018), "b"))
    item.add("screen", style.second, tilted(box((-0.17, -0.125, 0.018), (0.17, -0.117, 0.24)), 0.35, (0, -0.12, 0.018)))
    item.hull = True
    return item


def table_lamp(rng: Rng, style: Style) -> Item:
    """A foot, a stem and a shade."""
    item = Item("", "table lamp", detail=0.6)
    h, r = rng.uniform(0.34, 0.5), rng.uniform(0.1, 0.15)
    item.add("base", style.second, lathe([(0.07, 0.0), (0.05, 0.05), (0.025, 0.5 * h), (0.015, h - 0.12)], k=12))
    item.add("shade", style.main, lathe([(r, h - 0.18), (0.65 * r, h)], k=16), gloss=0.35)
    item.hull = True
    return item


def book_stack(rng: Rng, style: Style) -> Item:
    """A few books lying on each other."""
    item = Item("", "books", detail=0.6)
    z = 0.0
    for _ in range(int(rng.integers(1, 5))):
        w, d, h = rng.uniform(0.15, 0.24), rng.uniform(0.12, 0.17), rng.uniform(0.015, 0.045)
        item.add("body", draw_texture(rng), box((-w / 2, -d / 2, z), (w / 2, d / 2, z + h), "b"))
        z += h
    item.hull = True
    return item


def vase(rng: Rng, style: Style) -> Item:
    """A turned vase, bottle or bowl."""
    item = Item("", "vase", detail=0.55)
    h, r = rng.uniform(0.1, 0.32), rng.uniform(0.04, 0.09)
    item.add(
        "body",
        style.main,
        lathe(
            [(0.6 * r, 0.0), (r, 0.4 * h), (0.45 * r, 0.8 * h), (0.6 * r, h), (0.3 * r, 0.9 * h), (0.0, 0.5 * h)], k=12
        ),
    )
    return item


def small_plant(rng: Rng, style: Style) -> Item:
    """A plant for a table."""
    item = _plant(rng, style, rng.uniform(0.25, 0.4))
    item.detail = 0.55
    return item


def microwave(rng: Rng, style: Style) -> Item:
    """For kitchen counters."""
    item = Item("", "microwave", detail=0.7)
    item.add("body", style.main, box((-0.25, -0.18, 0.01), (0.25, 0.17, 0.29), "b"))
    item.add("door", style.second, box((-0.24, 0.17, 0.03), (0.12, 0.18, 0.27), "n"))
    item.hull = True
    return item


def backpack(rng: Rng, style: Style) -> Item:
    """A soft bag on the floor."""
    item = Item("", "backpack", detail=0.65)
    item.add("body", style.main, tilted(rounded_box((-0.16, -0.1, 0.0), (0.16, 0.1, 0.45), 0.08), 0.12, (0, -0.1, 0)))
    item.add("pocket", style.second, rounded_box((-0.12, 0.07, 0.06), (0.12, 0.14, 0.26), 0.05))
    item.hull = True
    return item


Maker = Callable[[Rng, Style], Item]
ON_TABLE: tuple[Maker, ...] = (table_lamp, book_stack, vase, small_plant, laptop, book_stack, vase)
ON_COUNTER: tuple[Maker, ...] = (microwave, vase, vase, small_plant, book_stack)
ON_FLOOR: tuple[Maker, ...] = (trash_can, cardboard_box, plant, floor_lamp, crate, backpack, cardboard_box, stepladder)


def shelf_board(rng: Rng, style: Style) -> Item:
    """A board on a wall with things on it. ScanNet20 does not name it."""
    item = Item("", "shelf", detail=0.7)
    w = rng.uniform(0.6, 1.1)
    item.add("board", style.main, box((-w / 2, 0, 0), (w / 2, 0.22, 0.025), "n"))
    item.add("things", draw_texture(rng), cylinder((-w / 4, 0.11, 0.025), 0.05, rng.uniform(0.1, 0.2), 10))
    spines = Texture("spines", style.accent.colors, 0.045, int(rng.integers(2**31)))
    item.add("books", spines, box((0.0, 0.03, 0.025), (w / 3, 0.19, rng.uniform(0.2, 0.26)), "nb"))
    item.hull, item.back_clearance = True, 0.0
    return item
