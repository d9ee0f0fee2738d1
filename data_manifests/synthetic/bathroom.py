"""Toilets, sinks, bathtubs, shower curtains."""

from __future__ import annotations

import numpy as np

from data_manifests.synthetic.item import Item, Support
from data_manifests.synthetic.shapes import (
    Patch,
    folded_sheet,
    lathe,
    moved,
    panel,
    quad,
    rod,
    rounded_box,
    tilted,
)
from data_manifests.synthetic.textures import Style, Texture, draw_texture, tinted

Rng = np.random.Generator


def ceramic(rng: Rng) -> Texture:
    """Sanitary ware is mostly white or cream (a natural prior of these classes), now and then of any colour."""
    if rng.random() < 0.15:
        return draw_texture(rng)
    return tinted(rng, "plain", np.array([0.86, 0.85, 0.82]), 0.06)


def _faucet(item: Item, style: Style, x: float, y: float, z: float, reach: float) -> None:
    item.add("faucet", style.accent, rod((x, y, z), (x, y, z + 0.14), 0.014, 5))
    item.add("faucet", style.accent, rod((x, y, z + 0.135), (x, y + reach, z + 0.11), 0.012, 5))


def toilet(rng: Rng, style: Style) -> Item:
    """Bowl, seat, lid up or down, and a tank at the wall."""
    item = Item("toilet", "toilet", detail=0.7)
    white = ceramic(rng)
    h, d = rng.uniform(0.38, 0.44), rng.uniform(0.64, 0.74)
    y = d / 2 - 0.25  # centre of the bowl
    foot = rng.uniform(0.55, 0.75)
    profile = [
        (0.19 * foot, 0.0),
        (0.17 * foot, 0.12),
        (0.15, 0.25),
        (0.185, h),
        (0.13, h),
        (0.10, h - 0.14),
        (0.0, h - 0.2),
    ]
    item.add("bowl", white, lathe(profile, (0, y, 0), (1.0, 1.3), k=20), gloss=0.1)
    item.add("bowl", white, rounded_box((-0.1, -d / 2 + 0.02, 0.0), (0.1, y - 0.05, h - 0.06), 0.03))
    item.add(
        "seat", white, lathe([(0.19, h), (0.19, h + 0.02), (0.12, h + 0.02), (0.12, h)], (0, y, 0), (1.0, 1.22), k=20)
    )
    lid = lathe([(0.19, h + 0.022), (0.19, h + 0.04), (0.0, h + 0.045)], (0, y, 0), (1.0, 1.18), k=20)
    hinge = y - 0.23
    item.add("lid", white, tilted(lid, 1.62, (0, hinge, h + 0.03)) if rng.random() < 0.55 else lid)
    top = rng.uniform(0.76, 0.88)
    w = rng.uniform(0.36, 0.46)
    item.add(
        "tank", white, rounded_box((-w / 2, -d / 2, h - 0.02), (w / 2, -d / 2 + 0.17, top), 0.03, skip="n"), gloss=0.1
    )
    item.add(
        "tank",
        white,
        rounded_box((-w / 2 - 0.01, -d / 2, top), (w / 2 + 0.01, -d / 2 + 0.18, top + 0.035), 0.012, skip="n"),
    )
    item.hull = True
    return item


def _basin(w: float, d: float, depth: float, z: float, power: float, rim: float) -> list[Patch]:
    """A bowl whose rim lies at height z: outer wall, rim, inner wall, bottom."""
    s = d / w
    r = w / 2
    profile = [
        (0.55 * r, z - depth),
        (0.9 * r, z - 0.4 * depth),
        (r, z),
        (r - rim, z),
        (0.85 * r - rim, z - 0.6 * depth),
        (0.0, z - 0.9 * depth),
    ]
    return lathe(profile, stretch=(1.0, s), k=24, power=power)


def pedestal_sink(rng: Rng, style: Style) -> Item:
    """A basin on a column."""
    item = Item("sink", "sink", detail=0.65)
    white = ceramic(rng)
    w, d, h = rng.uniform(0.48, 0.62), rng.uniform(0.40, 0.48), rng.uniform(0.78, 0.88)
    item.add("basin", white, _basin(w, d, 0.18, h, float(rng.choice([2.0, 2.6, 4.0])), 0.05), gloss=0.1)
    if rng.random() < 0.8:
        item.add("pedestal", white, lathe([(0.12, 0.0), (0.08, 0.15), (0.09, h - 0.18)], (0, -0.05, 0), k=14))
    item.add(
        "basin",
        white,
        rounded_box((-w / 2 + 0.05, -d / 2 - 0.02, h - 0.1), (w / 2 - 0.05, -d / 2 + 0.07, h + 0.02), 0.02),
    )
    _faucet(item, style, 0.0, -d / 2 + 0.04, h + 0.01, 0.13)
    item.hull = True
    return item


def set_in_sink(rng: Rng, style: Style, w: float, d: float, depth: float) -> Item:
    """A basin that hangs in the hole of a counter: z = 0 is the counter's top."""
    item = Item("sink", "sink", detail=0.55)
    tex = ceramic(rng) if rng.random() < 0.5 else tinted(rng, "plain", np.full(3, 0.62), 0.04)
    wall = [
        quad((-w / 2, d / 2, -depth), (0, -d, 0), (0, 0, depth)), quad((w / 2, -d / 2, -depth), (0, d, 0), (0, 0,
        depth)),
        quad((-w / 2, -d / 2, -depth), (w, 0, 0), (0, 0, depth)), quad((w / 2, d / 2, -depth), (-w, 0, 0), (0, 0,
        depth)),
    ]  # fmt: skip
    inward = [p[:, ::-1] for p in wall]
    item.add("basin", tex, [*inward, quad((-w / 2, -d / 2, -depth), (w, 0, 0), (0, d, 0))], gloss=0.1)
    rim = panel(
        (-w / 2 - 0.025, -d / 2 - 0.025, 0.008),
        (w + 0.05, 0, 0),
        (0, d + 0.05, 0),
        [(0.025, w + 0.025, 0.025, d + 0.025)],
    )
    item.add("basin", tex, rim)
    _faucet(item, style, 0.0, -d / 2 - 0.045, 0.0, 0.16)
    return item


def vessel_sink(rng: Rng, style: Style) -> Item:
    """A bowl that stands on a counter."""
    item = Item("sink", "sink", detail=0.6)
    w, d = rng.uniform(0.38, 0.48), rng.uniform(0.32, 0.40)
    item.add("basin", ceramic(rng), _basin(w, d, 0.13, 0.13, float(rng.choice([2.0, 4.0])), 0.02), gloss=0.1)
    _faucet(item, style, 0.0, -d / 2 - 0.05, 0.0, 0.16)
    return item


def bathtub(rng: Rng, style: Style, w: float) -> Item:
    """A tub of length w along its back wall."""
    item = Item("bathtub", "bathtub")
    white = ceramic(rng)
    d, h = rng.uniform(0.68, 0.8), rng.uniform(0.48, 0.6)
    rim, power = rng.uniform(0.05, 0.08), 6.0
    if rng.random() < 0.3:  # free-standing oval tub
        r = w / 2
        profile = [
            (0.78 * r, 0.0),
            (0.9 * r, 0.2),
            (r, h),
            (r - rim, h),
            (0.85 * r - rim, 0.22),
            (0.7 * r, 0.14),
            (0.0, 0.13),
        ]
        item.add("basin", white, lathe(profile, (0, 0, 0), (1.0, d / w), k=32), gloss=0.1)
    else:
        item.add("apron", white, [quad((w / 2, d / 2, 0), (-w, 0, 0), (0, 0, h))], gloss=0.1)
        for a in (-1, 1):
            item.add("apron", white, [quad((a * w / 2, -a * d / 2, 0), (0, a * d, 0), (0, 0, h))])
        item.add("rim", white, panel((-w / 2, -d / 2, h), (w, 0, 0), (0, d, 0), [(rim, w - rim, rim, d - rim)]))
        r = w / 2 - rim
        inner = [(r, h), (0.93 * r, 0.25), (0.85 * r, 0.15), (0.0, 0.13)]
        item.add(
            "basin", white, lathe(inner, (0, 0, 0), (1.0, (d - 2 * rim) / (w - 2 * rim)), k=36, power=power), gloss=0.1
        )
    item.add("faucet", style.accent, rod((-w / 2 + 0.12, 0, h), (-w / 2 + 0.12, 0, h + 0.12), 0.016, 5))
    item.add("faucet", style.accent, rod((-w / 2 + 0.12, 0, h + 0.115), (-w / 2 + 0.26, 0, h + 0.09), 0.016, 5))
    item.hull = True
    return item


def shower_curtain(rng: Rng, style: Style, span: float, top: float, foot: float) -> Item:
    """Cloth drawn part of the way along a rod of length `span`; its plane is y = 0."""
    item = Item("shower curtain", "shower curtain", detail=0.9)
    w = span * rng.uniform(0.5, 0.95)
    x = (span - w) / 2 * float(rng.choice([-1, 1]))
    item.add(
        "cloth",
        style.main,
        moved(folded_sheet(w, foot, top, 0.035, max(4, round(w / 0.16)), rng.uniform(0, 6)), (x, 0, 0)),
    )
    item.add("rod", style.accent, rod((-span / 2, 0, top + 0.02), (span / 2, 0, top + 0.02), 0.013))
    return item


def washing_machine(rng: Rng, style: Style) -> Item:
    """A cube with a round door."""
    item = Item("other furniture", "washing machine", detail=0.85)
    w, d, h = rng.uniform(0.58, 0.64), rng.uniform(0.52, 0.62), rng.uniform(0.82, 0.9)
    item.add("body", style.main, rounded_box((-w / 2, -d / 2, 0.01), (w / 2, d / 2, h), 0.015, skip="bn"))
    ring = lathe([(0.19, 0.0), (0.18, 0.03), (0.13, 0.035), (0.0, 0.02)], k=20)
    item.add("door", style.second, moved(tilted(ring, -np.pi / 2, (0, 0, 0)), (0, d / 2, 0.42)))
    item.supports.append(Support(-w / 2, w / 2, -d / 2, d / 2, h))
    return item
