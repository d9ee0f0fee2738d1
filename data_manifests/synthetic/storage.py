"""Cabinets, bookshelves, wardrobes, refrigerators, television stands."""

from __future__ import annotations

import numpy as np

from data_manifests.synthetic.item import Item, Support
from data_manifests.synthetic.seating import _four_legs
from data_manifests.synthetic.shapes import box, rod
from data_manifests.synthetic.textures import Style, Texture

Rng = np.random.Generator


def _fronts(
    rng: Rng, item: Item, style: Style, x0: float, x1: float, z0: float, z1: float, y: float, columns: int, rows: int
) -> None:
    """Doors (taller than wide) or drawers (wider than tall) with handles on the plane y, slightly proud of the body."""
    cw, rh = (x1 - x0) / columns, (z1 - z0) / rows
    name = "drawers" if cw > rh else "doors"
    knob = rng.random() < 0.35
    for i in range(columns):
        for j in range(rows):
            a, b = x0 + i * cw + 0.006, z0 + j * rh + 0.006
            item.add(name, style.second, box((a, y - 0.004, b), (a + cw - 0.012, y + 0.016, b + rh - 0.012), "n"))
            if name == "drawers":
                mid, z, half = a + cw / 2 - 0.006, b + rh * 0.6, 0.02 if knob else min(0.08, cw / 4)
                item.add("handles", style.accent, rod((mid - half, y + 0.03, z), (mid + half, y + 0.03, z), 0.009, 4))
            else:
                x = a + (0.05 if i % 2 else cw - 0.06)
                z, half = b + rh * 0.5, 0.02 if knob else min(0.1, rh / 4)
                item.add("handles", style.accent, rod((x, y + 0.03, z - half), (x, y + 0.03, z + half), 0.009, 4))


def cabinet(rng: Rng, style: Style) -> Item:
    """A standing chest with doors or drawers; low, half high or tall."""
    item = Item("cabinet", "cabinet")
    kind = rng.integers(3)
    w, d = rng.uniform(0.6, 1.3), rng.uniform(0.36, 0.5)
    h = (rng.uniform(0.65, 0.9), rng.uniform(1.0, 1.3), rng.uniform(1.7, 2.05))[kind]
    leg = rng.uniform(0.06, 0.16) if rng.random() < 0.4 else 0.0
    item.add("body", style.main, box((-w / 2, -d / 2, leg), (w / 2, d / 2 - 0.018, h), "bn" if leg == 0 else "n"))
    if leg:
        item.add("legs", style.second, *_four_legs(w, d, leg, 0.04, 0.03, bool(rng.random() < 0.5)))
    columns = max(1, round(w / 0.5))
    if rng.random() < 0.5:
        _fronts(rng, item, style, -w / 2, w / 2, leg + 0.03, h - 0.02, d / 2 - 0.018, columns, 1 + int(kind == 2))
    else:
        _fronts(
            rng,
            item,
            style,
            -w / 2,
            w / 2,
            leg + 0.03,
            h - 0.02,
            d / 2 - 0.018,
            max(1, columns // 2),
            max(3, round(h / 0.28)),
        )
    if kind < 2:
        item.supports.append(Support(-w / 2, w / 2, -d / 2, d / 2, h))
    return item


def file_cabinet(rng: Rng, style: Style) -> Item:
    """A narrow stack of drawers."""
    item = Item("cabinet", "file cabinet", detail=0.85)
    w, d = rng.uniform(0.38, 0.48), rng.uniform(0.45, 0.6)
    drawers = int(rng.integers(2, 5))
    h = 0.06 + drawers * 0.31
    item.add("body", style.main, box((-w / 2, -d / 2, 0), (w / 2, d / 2 - 0.018, h), "bn"))
    _fronts(rng, item, style, -w / 2, w / 2, 0.04, h - 0.02, d / 2 - 0.018, 1, drawers)
    item.supports.append(Support(-w / 2, w / 2, -d / 2, d / 2, h))
    return item


def wall_cabinet(rng: Rng, style: Style, w: float | None = None) -> Item:
    """A cabinet without legs to be hung on a wall; z = 0 is its lower edge."""
    item = Item("cabinet", "kitchen cabinet")
    w = rng.uniform(0.6, 1.4) if w is None else w
    d, h = rng.uniform(0.3, 0.36), rng.uniform(0.55, 0.75)
    item.add("body", style.main, box((-w / 2, -d / 2, 0), (w / 2, d / 2 - 0.018, h), "n"))
    _fronts(rng, item, style, -w / 2, w / 2, 0.01, h - 0.01, d / 2 - 0.018, max(1, round(w / 0.45)), 1)
    item.back_clearance = 0.0
    return item


def base_cabinet(rng: Rng, style: Style, w: float, d: float, h: float) -> Item:
    """The cabinets below a work top: open at the top, set back at the toe."""
    item = Item("cabinet", "kitchen cabinet")
    item.add("body", style.main, box((-w / 2, -d / 2, 0.0), (w / 2, d / 2 - 0.06, 0.09), "tbn"))
    item.add("body", style.main, box((-w / 2, -d / 2, 0.09), (w / 2, d / 2 - 0.02, h), "tbn"))
    columns = max(1, round(w / 0.5))
    drawer_row = rng.random() < 0.5
    top = h - 0.17 if drawer_row else h - 0.01
    _fronts(rng, item, style, -w / 2, w / 2, 0.1, top, d / 2 - 0.02, columns, 1)
    if drawer_row:
        _fronts(rng, item, style, -w / 2, w / 2, top + 0.005, h - 0.01, d / 2 - 0.02, columns, 1)
    return item


def bookshelf(rng: Rng, style: Style) -> Item:
    """Uprights and shelves with rows of books, boxes and gaps."""
    item = Item("bookshelf", "bookshelf")
    w, d = rng.uniform(0.7, 1.3), rng.uniform(0.26, 0.36)
    shelves = int(rng.integers(3, 6))
    h = shelves * rng.uniform(0.30, 0.38) + 0.08
    t = rng.uniform(0.018, 0.03)
    for a in (-1, 1):
        x = a * (w / 2 - t / 2)
        item.add("frame", style.main, box((x - t / 2, -d / 2, 0), (x + t / 2, d / 2, h), "bn"))
    if rng.random() < 0.7:
        item.add("frame", style.main, box((-w / 2 + t, -d / 2, 0.05), (w / 2 - t, -d / 2 + 0.01, h), "tbn"))
    step = (h - 0.08) / shelves
    for i in range(shelves + 1):
        z = 0.06 + i * step
        item.add("shelves", style.main, box((-w / 2 + t, -d / 2, z), (w / 2 - t, d / 2, z + t), "n"))
        if i == shelves:
            break
        x, filled = -w / 2 + t + 0.01, rng.uniform(0.3, 1.0)
        while x < (filled - 0.5) * w - 0.08:
            bw = min(rng.uniform(0.12, 0.35), w / 2 - t - x)
            bh, bd = rng.uniform(0.5, 0.82) * (step - t), rng.uniform(0.6, 0.92) * d
            spines = Texture("spines", style.accent.colors, 0.045, int(rng.integers(2**31)))
            item.add("books", spines, box((x, -d / 2 + 0.012, z + t), (x + bw, -d / 2 + bd, z + t + bh), "nb"))
            x += bw + rng.choice([0.0, 0.0, 0.09])
    item.hull = True
    return item


def wardrobe(rng: Rng, style: Style) -> Item:
    """A tall closet for clothes."""
    item = Item("other furniture", "wardrobe")
    w, d, h = rng.uniform(0.9, 1.7), rng.uniform(0.52, 0.62), rng.uniform(1.9, 2.2)
    item.add("body", style.main, box((-w / 2, -d / 2, 0), (w / 2, d / 2 - 0.018, h), "bn"))
    _fronts(rng, item, style, -w / 2, w / 2, 0.06, h - 0.03, d / 2 - 0.018, max(2, round(w / 0.55)), 1)
    return item


def tv_stand(rng: Rng, style: Style) -> Item:
    """A long low board with open compartments."""
    item = Item("other furniture", "tv stand")
    w, d, h = rng.uniform(1.1, 1.7), rng.uniform(0.36, 0.45), rng.uniform(0.4, 0.58)
    item.add(
        "body",
        style.main,
        box((-w / 2, -d / 2, h - 0.03), (w / 2, d / 2, h)),
        box((-w / 2, -d / 2, 0.05), (w / 2, d / 2, 0.08)),
    )
    for x in np.linspace(-w / 2 + 0.012, w / 2 - 0.012, int(rng.integers(3, 5))):
        item.add("body", style.main, box((x - 0.012, -d / 2, 0.08), (x + 0.012, d / 2, h - 0.03), "tbn"))
    item.add("body", style.second, box((-w / 2, -d / 2, 0.08), (w / 2, -d / 2 + 0.01, h - 0.03), "tbn"))
    item.add("legs", style.second, *_four_legs(w, d, 0.05, 0.05, 0.04, False))
    item.supports.append(Support(-w / 2, w / 2, -d / 2, d / 2, h, 1.0))
    item.hull = True
    return item


def refrigerator(rng: Rng, style: Style) -> Item:
    """A tall box with a freezer door and a long bar handle on each door, or a small one."""
    small = rng.random() < 0.2
    item = Item("refrigerator", "mini fridge" if small else "refrigerator")
    w, d = rng.uniform(0.5, 0.6) if small else rng.uniform(0.6, 0.88), rng.uniform(0.58, 0.72)
    h = rng.uniform(0.82, 0.9) if small else rng.uniform(1.6, 1.9)
    body = style.main
    item.add("body", body, box((-w / 2, -d / 2, 0.02), (w / 2, d / 2 - 0.06, h), "nb"))
    split = h if small else h * (rng.uniform(0.62, 0.75) if rng.random() < 0.5 else rng.uniform(0.3, 0.4))
    side = 1 if rng.random() < 0.5 else -1
    for z0, z1 in ((0.06, split - 0.006), (split + 0.006, h)):
        if z1 - z0 < 0.1:
            continue
        item.add("doors", body, box((-w / 2, d / 2 - 0.055, z0), (w / 2, d / 2, z1)))
        x, zm = side * (w / 2 - 0.06), (z0 + z1) / 2
        half = 0.35 * (z1 - z0)
        item.add("handles", style.accent, rod((x, d / 2 + 0.035, zm - half), (x, d / 2 + 0.035, zm + half), 0.014, 5))
    return item
