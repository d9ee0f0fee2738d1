"""Beds."""

from __future__ import annotations

import numpy as np

from data_manifests.synthetic.item import Item
from data_manifests.synthetic.seating import _four_legs
from data_manifests.synthetic.shapes import box, folded_sheet, moved, rounded_box, tilted
from data_manifests.synthetic.textures import Style, draw_texture

Rng = np.random.Generator


def bed(rng: Rng, style: Style) -> Item:
    """Frame, mattress, pillows, a blanket, mostly a headboard (at -y, against the wall)."""
    item = Item("bed", "bed")
    double = rng.random() < 0.6
    w = rng.uniform(1.4, 1.8) if double else rng.uniform(0.85, 1.1)
    d, base, top = rng.uniform(1.95, 2.1), rng.uniform(0.2, 0.34), rng.uniform(0.44, 0.6)
    leg = rng.uniform(0.08, 0.16) if rng.random() < 0.6 else 0.0
    item.add("frame", style.second, box((-w / 2, -d / 2 + 0.05, leg), (w / 2, d / 2, base), "b" if leg == 0 else ""))
    if leg:
        item.add("legs", style.second, *_four_legs(w, d, leg, 0.06, 0.06, False))
    if rng.random() < 0.8:
        height = rng.uniform(0.8, 1.2)
        item.add(
            "headboard",
            style.second,
            rounded_box((-w / 2 - 0.02, -d / 2, 0.1), (w / 2 + 0.02, -d / 2 + 0.06, height), 0.02),
        )
    y0 = -d / 2 + 0.07
    item.add(
        "mattress",
        draw_texture(rng),
        rounded_box((-w / 2 + 0.02, y0, base), (w / 2 - 0.02, d / 2 - 0.02, top), 0.06, skip="b"),
    )
    pillow = draw_texture(rng)
    for i in range(2 if double else 1):
        x = (i - 0.5) * w / 2 if double else 0.0
        half, z = min(0.33, w / 5 if double else w / 3), top + 0.02
        lo, hi = (x - half, y0 + 0.04, z - 0.02), (x + half, y0 + 0.44, z + 0.1)
        item.add("pillow", pillow, tilted(rounded_box(lo, hi, 0.055, 0.03), -rng.uniform(0.0, 0.25), (x, y0 + 0.24, z)))
    y1 = y0 + rng.uniform(0.5, 0.9)
    lift = 0.025
    item.add(
        "blanket",
        style.main,
        rounded_box((-w / 2 - 0.01, y1, top - 0.16), (w / 2 + 0.01, d / 2, top + lift), 0.05, skip="bn"),
    )
    if rng.random() < 0.5:  # the blanket hangs over both sides
        for a in (-1, 1):
            sheet = folded_sheet(d / 2 - y1, leg + 0.08, top - 0.05, 0.008, 4, rng.uniform(0, 6))
            yaw = -a * np.pi / 2
            item.add("blanket", style.main, moved(sheet, (a * (w / 2 + 0.02), (y1 + d / 2) / 2, 0), yaw))
    item.hull = True
    return item
