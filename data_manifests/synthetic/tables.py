"""Tables, desks, nightstands, counters."""

from __future__ import annotations

import numpy as np

from data_manifests.synthetic.item import Item, Support
from data_manifests.synthetic.seating import _four_legs
from data_manifests.synthetic.shapes import box, cylinder, lathe, panel, quad, rod
from data_manifests.synthetic.textures import Style

Rng = np.random.Generator


def _table(rng: Rng, style: Style, item: Item, w: float, d: float, h: float) -> Item:
    thick, inset = rng.uniform(0.02, 0.05), rng.uniform(0.0, 0.08)
    item.add("top", style.main, box((-w / 2, -d / 2, h - thick), (w / 2, d / 2, h)))
    t = rng.uniform(0.035, 0.08)
    if rng.random() < 0.75:
        item.add("legs", style.second, *_four_legs(w, d, h - thick, t, inset, bool(rng.random() < 0.4)))
        if rng.random() < 0.5:  # apron
            z = h - thick - 0.08
            for a in (-1, 1):
                y, x = a * (d / 2 - inset - t / 2), a * (w / 2 - inset - t / 2)
                item.add(
                    "frame",
                    style.second,
                    box((-w / 2 + inset + t, y - 0.01, z), (w / 2 - inset - t, y + 0.01, h - thick), "t"),
                )
                item.add(
                    "frame",
                    style.second,
                    box((x - 0.01, -d / 2 + inset + t, z), (x + 0.01, d / 2 - inset - t, h - thick), "t"),
                )
    else:  # two slabs
        for a in (-1, 1):
            x = a * (w / 2 - inset - 0.03)
            item.add("legs", style.second, box((x - 0.02, -d / 2 + 0.04, 0), (x + 0.02, d / 2 - 0.04, h - thick), "tb"))
    item.supports.append(Support(-w / 2, w / 2, -d / 2, d / 2, h))
    return item


def dining_table(rng: Rng, style: Style) -> Item:
    """A rectangular table to sit at."""
    item = Item("table", "dining table" if rng.random() < 0.5 else "table")
    return _table(rng, style, item, rng.uniform(1.0, 1.9), rng.uniform(0.75, 1.0), rng.uniform(0.71, 0.77))


def coffee_table(rng: Rng, style: Style) -> Item:
    """A low table; half of them have a shelf."""
    item = Item("table", "coffee table", detail=0.9)
    w, d, h = rng.uniform(0.7, 1.2), rng.uniform(0.45, 0.65), rng.uniform(0.36, 0.5)
    _table(rng, style, item, w, d, h)
    if rng.random() < 0.4:
        item.add("shelf", style.main, box((-w / 2 + 0.1, -d / 2 + 0.1, 0.12), (w / 2 - 0.1, d / 2 - 0.1, 0.14)))
    return item


def side_table(rng: Rng, style: Style) -> Item:
    """A small table beside a sofa or bed."""
    item = Item("table", "end table" if rng.random() < 0.5 else "side table", detail=0.75)
    return _table(rng, style, item, rng.uniform(0.38, 0.55), rng.uniform(0.36, 0.5), rng.uniform(0.45, 0.62))


def round_table(rng: Rng, style: Style) -> Item:
    """A disc on a pedestal or on three legs."""
    item = Item("table", "round table")
    r, h = rng.uniform(0.4, 0.65), rng.uniform(0.70, 0.76)
    item.add("top", style.main, lathe([(0.0, h - 0.03), (r, h - 0.03), (r, h), (0.0, h)], k=28))
    if rng.random() < 0.6:
        item.add("legs", style.second, cylinder((0, 0, 0), 0.045, h - 0.03, 10, cap=False))
        item.add("legs", style.second, lathe([(0.6 * r, 0.0), (0.6 * r, 0.02), (0.045, 0.06)], k=18))
    else:
        for i in range(4):
            a = np.pi / 4 + np.pi / 2 * i
            x, y = 0.72 * r * np.cos(a), 0.72 * r * np.sin(a)
            item.add("legs", style.second, rod((x, y, 0), (0.9 * x, 0.9 * y, h - 0.03), 0.025))
    s = 0.65 * r
    item.supports.append(Support(-s, s, -s, s, h))
    return item


def desk(rng: Rng, style: Style) -> Item:
    """A working table: a modesty panel at the back, drawers on one side."""
    item = Item("desk", "desk")
    w, d, h = rng.uniform(1.1, 1.7), rng.uniform(0.58, 0.78), rng.uniform(0.72, 0.76)
    item.add("top", style.main, box((-w / 2, -d / 2, h - 0.03), (w / 2, d / 2, h)))
    side = 1 if rng.random() < 0.5 else -1
    drawers = rng.random() < 0.75
    if drawers:
        pw = rng.uniform(0.36, 0.45)
        x1 = side * w / 2
        lo, hi = min(x1, x1 - side * pw), max(x1, x1 - side * pw)
        item.add("body", style.main, box((lo, -d / 2 + 0.02, 0.04), (hi, d / 2 - 0.03, h - 0.03), "tf"))
        for i in range(3):
            z0 = 0.05 + i * (h - 0.09) / 3
            z1 = z0 + (h - 0.09) / 3 - 0.012
            item.add("drawers", style.second, box((lo + 0.008, d / 2 - 0.04, z0), (hi - 0.008, d / 2 - 0.02, z1), "n"))
            mid, z = (lo + hi) / 2, (z0 + z1) / 2
            item.add(
                "handles", style.accent, rod((mid - 0.06, d / 2 - 0.01, z), (mid + 0.06, d / 2 - 0.01, z), 0.008, 4)
            )
    for a in (-1, 1):
        if drawers and a == side:
            continue
        x = a * (w / 2 - 0.03)
        if rng.random() < 0.5:
            item.add(
                "legs", style.second, box((x - 0.018, -d / 2 + 0.02, 0), (x + 0.018, d / 2 - 0.02, h - 0.03), "tb")
            )
        else:
            for y in (-d / 2 + 0.05, d / 2 - 0.05):
                item.add("legs", style.second, box((x - 0.022, y - 0.022, 0), (x + 0.022, y + 0.022, h - 0.03), "tb"))
    if rng.random() < 0.6:
        z0 = rng.uniform(0.25, 0.45)
        item.add(
            "body", style.main, box((-w / 2 + 0.06, -d / 2 + 0.03, z0), (w / 2 - 0.06, -d / 2 + 0.05, h - 0.03), "tb")
        )
    item.supports.append(Support(-w / 2 + 0.05, w / 2 - 0.05, -d / 2, d / 2 - 0.2, h))
    return item


def nightstand(rng: Rng, style: Style) -> Item:
    """A small chest beside a bed. ScanNet20 has no name for it."""
    item = Item("", "nightstand", detail=0.75)
    w, d, h = rng.uniform(0.38, 0.5), rng.uniform(0.34, 0.42), rng.uniform(0.45, 0.6)
    item.add("body", style.main, box((-w / 2, -d / 2, 0.06), (w / 2, d / 2 - 0.015, h), "f"))
    for i in range(2):
        z0 = 0.08 + i * (h - 0.1) / 2
        item.add(
            "drawers",
            style.second,
            box((-w / 2 + 0.01, d / 2 - 0.02, z0), (w / 2 - 0.01, d / 2, z0 + (h - 0.1) / 2 - 0.012)),
        )
    item.add("legs", style.second, *_four_legs(w, d, 0.06, 0.03, 0.01, False))
    item.supports.append(Support(-w / 2, w / 2, -d / 2, d / 2, h))
    return item


def counter(
    rng: Rng, style: Style, w: float, d: float, h: float, holes: list[tuple[float, float, float, float]]
) -> Item:
    """A work top of width w and depth d at height h, open where `holes` (u0, u1, v0, v1 from its back left corner) let
    sinks in.
    """
    item = Item("counter", "kitchen counter")
    t = 0.04
    item.add("top", style.main, panel((-w / 2, -d / 2, h), (w, 0, 0), (0, d, 0), holes))
    item.add("top", style.main, [quad((w / 2, d / 2, h - t), (-w, 0, 0), (0, 0, t))])
    for a in (-1, 1):
        x = a * w / 2
        item.add("top", style.main, [quad((x, -a * d / 2, h - t), (0, a * d, 0), (0, 0, t))])
    splash = rng.uniform(0.05, 0.15)
    item.add("backsplash", style.main, box((-w / 2, -d / 2, h), (w / 2, -d / 2 + 0.015, h + splash), "bn"))
    item.supports.append(Support(-w / 2, w / 2, -d / 2 + 0.05, d / 2, h, 0.45))
    return item
