"""Chairs, armchairs, office chairs, sofas, benches, ottomans. Sizes in metres after usual furniture dimensions."""

from __future__ import annotations

import numpy as np

from data_manifests.synthetic.item import Item, Support
from data_manifests.synthetic.shapes import box, cylinder, lathe, rod, rounded_box, tilted
from data_manifests.synthetic.textures import Style

Rng = np.random.Generator


def _four_legs(w: float, d: float, h: float, t: float, inset: float, round_legs: bool) -> list[list[np.ndarray]]:
    x, y = w / 2 - inset - t / 2, d / 2 - inset - t / 2
    if round_legs:
        return [rod((a * x, b * y, 0), (a * x, b * y, h), t / 2) for a in (-1, 1) for b in (-1, 1)]
    return [
        box((a * x - t / 2, b * y - t / 2, 0), (a * x + t / 2, b * y + t / 2, h), "tb")
        for a in (-1, 1)
        for b in (-1, 1)
    ]


def dining_chair(rng: Rng, style: Style) -> Item:
    """Four legs, a seat, a solid or slatted back, sometimes arms."""
    item = Item("chair", "chair", detail=0.64)
    w, d, seat = rng.uniform(0.40, 0.50), rng.uniform(0.40, 0.48), rng.uniform(0.42, 0.48)
    back, t = rng.uniform(0.80, 1.05), rng.uniform(0.03, 0.05)
    thick = rng.uniform(0.025, 0.07)
    item.add("legs", style.second, *_four_legs(w, d, seat - thick, t, 0.0, bool(rng.random() < 0.4)))
    cushion = thick > 0.045
    lo, hi = (-w / 2, -d / 2, seat - thick), (w / 2, d / 2, seat)
    item.add("seat", style.main, rounded_box(lo, hi, 0.02, 0.012) if cushion else box(lo, hi))
    lean, y = rng.uniform(0.04, 0.16), -d / 2 + 0.03
    kind = rng.integers(3)
    pivot = (0, y, seat)
    posts = [
        box((a * (w / 2 - t / 2) - t / 2, y - t / 2, seat), (a * (w / 2 - t / 2) + t / 2, y + t / 2, back))
        for a in (-1, 1)
    ]
    if kind == 0:  # one closed shell
        prims = [rounded_box((-w / 2, y - 0.02, seat + 0.02), (w / 2, y + 0.025, back), 0.02)]
    elif kind == 1:  # slats across
        prims = posts + [
            box((-w / 2 + t, y - 0.012, z), (w / 2 - t, y + 0.012, z + 0.09))
            for z in np.arange(seat + 0.12, back - 0.08, 0.17)
        ]
    else:  # spindles under a top rail
        prims = [*posts, box((-w / 2 + t, y - 0.015, back - 0.1), (w / 2 - t, y + 0.015, back))]
        prims += [rod((x, y, seat), (x, y, back - 0.1), 0.012, 4) for x in np.linspace(-w / 2 + 0.09, w / 2 - 0.09, 3)]
    item.add("back", style.main if kind == 0 else style.second, *[tilted(p, lean, pivot) for p in prims])
    if rng.random() < 0.25:
        top = seat + 0.2
        for a in (-1, 1):
            x = a * (w / 2 - 0.02)
            item.add("arms", style.second, box((x - 0.02, -d / 2 + 0.04, top), (x + 0.02, d / 2, top + 0.03)))
            item.add("arms", style.second, box((x - 0.02, d / 2 - 0.05, seat), (x + 0.02, d / 2 - 0.01, top), "tb"))
    return item


def office_chair(rng: Rng, style: Style) -> Item:
    """A star base with castors, a gas spring, an upholstered seat and back."""
    item = Item("chair", "office chair", detail=0.64)
    w, d, seat = rng.uniform(0.46, 0.54), rng.uniform(0.44, 0.52), rng.uniform(0.44, 0.54)
    reach, turn = rng.uniform(0.27, 0.33), rng.uniform(0, 1)
    for i in range(5):
        a = turn + 2 * np.pi * i / 5
        x, y = reach * np.cos(a), reach * np.sin(a)
        item.add("base", style.second, rod((0, 0, 0.1), (x, y, 0.07), 0.022, 5))
        item.add("base", style.second, lathe([(0.0, 0.0), (0.028, 0.028), (0.0, 0.056)], (x, y, 0), k=8))
    item.add("base", style.second, cylinder((0, 0, 0.06), 0.03, seat - 0.15, 8, cap=False))
    item.add("seat", style.main, rounded_box((-w / 2, -d / 2, seat - 0.08), (w / 2, d / 2, seat), 0.04, 0.01))
    top, pivot = seat + rng.uniform(0.4, 0.65), (0, -d / 2, seat)
    lean = rng.uniform(0.05, 0.2)
    bw = w * rng.uniform(0.8, 0.96)
    back = rounded_box((-bw / 2, -d / 2 - 0.03, seat + 0.1), (bw / 2, -d / 2 + 0.04, top), 0.03)
    item.add("back", style.main, tilted(back, lean, pivot))
    item.add("back", style.main, rod((0, -d / 2 + 0.1, seat - 0.04), (0, -d / 2 - 0.03, seat + 0.2), 0.02, 5))
    if rng.random() < 0.6:
        for a in (-1, 1):
            x = a * (w / 2 + 0.02)
            item.add(
                "arms", style.second, rounded_box((x - 0.03, -0.14, seat + 0.19), (x + 0.03, 0.13, seat + 0.23), 0.015)
            )
            item.add("arms", style.second, rod((x, 0, seat - 0.04), (x, 0, seat + 0.2), 0.018, 5))
    return item


def armchair(rng: Rng, style: Style) -> Item:
    """An upholstered chair for one."""
    item = _upholstered(rng, style, Item("chair", "armchair", detail=0.75), width=rng.uniform(0.68, 0.84), seats=1)
    return item


def sofa(rng: Rng, style: Style) -> Item:
    """Two or three seats, sometimes with a chaise on one side."""
    seats = int(rng.integers(2, 4))
    category = "couch" if rng.random() < 0.7 else "sofa"
    item = _upholstered(rng, style, Item("sofa", category), width=seats * rng.uniform(0.58, 0.72) + 0.36, seats=seats)
    return item


def _upholstered(rng: Rng, style: Style, item: Item, width: float, seats: int) -> Item:
    d, seat, back = rng.uniform(0.78, 0.95), rng.uniform(0.38, 0.46), rng.uniform(0.70, 0.92)
    w, arm = width, rng.uniform(0.10, 0.2)
    leg = rng.uniform(0.03, 0.15)
    has_arms = rng.random() < 0.9
    arm = arm if has_arms else 0.0
    if leg > 0.06:
        item.add("legs", style.second, *_four_legs(w, d, leg, 0.05, 0.04, bool(rng.random() < 0.5)))
    else:
        leg = 0.0
    item.add("base", style.main, box((-w / 2, -d / 2, leg), (w / 2, d / 2, seat - 0.14), "b" if leg == 0 else ""))
    thick = rng.uniform(0.16, 0.24)
    item.add(
        "back", style.main, rounded_box((-w / 2, -d / 2, seat - 0.14), (w / 2, -d / 2 + thick, back), 0.06, skip="b")
    )
    step = (w - 2 * arm) / seats
    for i in range(seats):
        x0 = -w / 2 + arm + i * step
        lo, hi = (x0 + 0.005, -d / 2 + thick, seat - 0.14), (x0 + step - 0.005, d / 2, seat)
        item.add("seat", style.main, rounded_box(lo, hi, 0.05, 0.03, skip="b"))
        lo, hi = (x0 + 0.02, -d / 2 + thick, seat + 0.02), (x0 + step - 0.02, -d / 2 + thick + 0.14, back - 0.05)
        item.add("back", style.main, tilted(rounded_box(lo, hi, 0.06, skip="n"), 0.12, (0, -d / 2 + thick, seat)))
    if has_arms:
        top = rng.uniform(seat + 0.08, min(seat + 0.24, back))
        for a in (-1, 1):
            x = a * (w / 2 - arm / 2)
            lo, hi = (x - arm / 2, -d / 2 + thick * 0.5, seat - 0.14), (x + arm / 2, d / 2 - 0.01, top)
            item.add("arms", style.main, rounded_box(lo, hi, 0.05, skip="b"))
    if rng.random() < 0.5:
        for a in rng.choice([-1, 1], size=int(rng.integers(1, 3)), replace=False):
            x = a * (w / 2 - arm - 0.2)
            lo, hi = (x - 0.18, -0.07, -0.18), (x + 0.18, 0.07, 0.18)
            pillow = tilted(rounded_box(lo, hi, 0.06, 0.0), 0.35, (0, 0, 0))
            offset = np.array([0, -d / 2 + thick + 0.26, seat + 0.22])
            item.add("pillow", style.accent, [p + offset for p in pillow])
    item.hull = True
    return item


def bench(rng: Rng, style: Style) -> Item:
    """A seat without a back for two or more."""
    item = Item("other furniture", "bench", detail=0.85)
    w, d, h = rng.uniform(0.9, 1.4), rng.uniform(0.3, 0.4), rng.uniform(0.42, 0.48)
    item.add("seat", style.main, box((-w / 2, -d / 2, h - 0.05), (w / 2, d / 2, h)))
    for a in (-1, 1):
        x = a * (w / 2 - 0.12)
        item.add("legs", style.second, box((x - 0.025, -d / 2 + 0.02, 0), (x + 0.025, d / 2 - 0.02, h - 0.05), "tb"))
    item.supports.append(Support(-w / 2, w / 2, -d / 2, d / 2, h))
    return item


def ottoman(rng: Rng, style: Style) -> Item:
    """A padded block to put feet on."""
    item = Item("other furniture", "ottoman", detail=0.85)
    w, d, h = rng.uniform(0.42, 0.75), rng.uniform(0.4, 0.55), rng.uniform(0.32, 0.45)
    if rng.random() < 0.4:
        item.add(
            "body", style.main, lathe([(w / 2, 0.02), (w / 2, h - 0.05), (w / 2 - 0.05, h), (0.0, h + 0.02)], k=18)
        )
    else:
        item.add("body", style.main, rounded_box((-w / 2, -d / 2, 0.03), (w / 2, d / 2, h), 0.05, 0.02, skip="b"))
    return item
