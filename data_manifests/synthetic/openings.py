"""What sits in or on walls: doors, windows, curtains, pictures, whiteboards, mirrors, radiators."""

from __future__ import annotations

import numpy as np

from data_manifests.synthetic.item import Item
from data_manifests.synthetic.shapes import box, cylinder, folded_sheet, lathe, moved, quad, rod
from data_manifests.synthetic.textures import Style, Texture, draw_color, tinted

Rng = np.random.Generator


def door(rng: Rng, style: Style, w: float, h: float, opening: float, hinge: int) -> Item:
    """A leaf with frame and handle in a hole of the wall plane y = 0 (room at +y), turned into the room by `opening`
    radians.
    """
    item = Item("door", "door", detail=1.25)
    f = 0.07
    for a in (-1, 1):
        x = a * (w / 2 + f / 2)
        item.add("frame", style.second, box((x - f / 2, -0.06, 0), (x + f / 2, 0.025, h + f), "bn"))
    item.add("frame", style.second, box((-w / 2, -0.06, h), (w / 2, 0.025, h + f), "n"))
    leaf = box((0, -0.04, 0.01), (w - 0.01, 0.0, h - 0.005))
    panels = int(rng.integers(0, 4))
    bosses = [
        box((0.12, -0.046, 0.18 + i * (h - 0.3) / panels), (w - 0.13, 0.008, 0.06 + (i + 1) * (h - 0.3) / panels))
        for i in range(panels)
    ]
    x = w - 0.08
    handle = [rod((x, -0.1, 1.0), (x, 0.06, 1.0), 0.012, 5), rod((x, 0.055, 1.0), (x - 0.12, 0.055, 1.0), 0.012, 5)]

    def hang(patches: list[np.ndarray]) -> list[np.ndarray]:
        turned = moved(patches, (0, 0, 0), opening)
        if hinge > 0:  # mirror to the other side; the winding turns with it
            return [(p * np.array([-1.0, 1, 1]))[:, ::-1] + np.array([w / 2, 0, 0]) for p in turned]
        return [p + np.array([-w / 2, 0, 0]) for p in turned]

    item.add("leaf", style.main, hang(leaf), *[hang(b) for b in bosses])
    item.add("handle", style.accent, *[hang(part) for part in handle])
    return item


def window(rng: Rng, style: Style, w: float, h: float) -> Item:
    """Frame, bars, a bright pane and a sill in a hole of the wall plane y = 0; z = 0 is the hole's lower edge."""
    item = Item("window", "window", detail=1.1)
    frame = style.second if rng.random() < 0.5 else tinted(rng, "plain", np.full(3, 0.85), 0.06)
    f, y = rng.uniform(0.04, 0.07), -rng.uniform(0.06, 0.14)
    sky = np.stack([np.array([0.75, 0.85, 0.95]) * rng.uniform(0.75, 1.02), draw_color(rng), draw_color(rng)])
    pane = Texture("sky", np.clip(sky, 0, 0.97), 0.3, int(rng.integers(2**31)))
    item.add("glass", pane, [quad((w / 2, y, 0), (-w, 0, 0), (0, 0, h))], gloss=0.6)
    for a in (-1, 1):  # reveal and frame
        item.add(
            "frame", frame, box((a * (w / 2 - f / 2) - f / 2, y, 0), (a * (w / 2 - f / 2) + f / 2, y + 0.04, h), "n")
        )
        item.add("frame", frame, [quad((a * w / 2, a * (-y / 2) + y / 2, 0), (0, a * y, 0), (0, 0, h))])
    item.add(
        "frame",
        frame,
        box((-w / 2 + f, y, h - f), (w / 2 - f, y + 0.04, h), "n"),
        box((-w / 2 + f, y, 0), (w / 2 - f, y + 0.04, f), "n"),
    )
    item.add("frame", frame, [quad((-w / 2, y, h), (0, -y, 0), (w, 0, 0))])
    for x in np.linspace(-w / 2, w / 2, int(rng.integers(2, 5)))[1:-1]:
        item.add("frame", frame, box((x - 0.025, y, f), (x + 0.025, y + 0.035, h - f), "ntb"))
    if rng.random() < 0.4:
        z = h * rng.uniform(0.5, 0.75)
        item.add("frame", frame, box((-w / 2 + f, y, z - 0.02), (w / 2 - f, y + 0.035, z + 0.02), "n"))
    item.add("sill", frame, box((-w / 2 - 0.04, y, -0.03), (w / 2 + 0.04, 0.08, 0.0)))
    return item


def curtain(rng: Rng, style: Style, span: float, z0: float, z1: float, *, pair: bool) -> Item:
    """Cloth on a rod in front of a window: one each side, or one drawn across; plane y = 0."""
    item = Item("curtain", "curtains" if pair else "curtain")
    item.add("rod", style.accent, rod((-span / 2 - 0.05, 0, z1 + 0.02), (span / 2 + 0.05, 0, z1 + 0.02), 0.014))
    widths = (
        [(-1, span * rng.uniform(0.16, 0.3)), (1, span * rng.uniform(0.16, 0.3))]
        if pair
        else [(0, span * rng.uniform(0.6, 1.0))]
    )
    for a, w in widths:
        sheet = folded_sheet(w, z0, z1, rng.uniform(0.025, 0.045), max(2, round(w / 0.13)), rng.uniform(0, 6))
        item.add("cloth", style.main, moved(sheet, (a * (span - w) / 2, 0, 0)))
    return item


def _framed(
    rng: Rng, item: Item, style: Style, content: Texture, w: float, h: float, f: float, depth: float, gloss: float
) -> Item:
    item.add(
        "canvas", content, [quad((w / 2 - f, depth * 0.6, f), (-(w - 2 * f), 0, 0), (0, 0, h - 2 * f))], gloss=gloss
    )
    for a in (-1, 1):
        x = a * (w / 2 - f / 2)
        item.add("frame", style.second, box((x - f / 2, 0, 0), (x + f / 2, depth, h), "n"))
    item.add(
        "frame",
        style.second,
        box((-w / 2 + f, 0, 0), (w / 2 - f, depth, f), "n"),
        box((-w / 2 + f, 0, h - f), (w / 2 - f, depth, h), "n"),
    )
    item.hull, item.back_clearance = True, 0.004
    return item


def picture(rng: Rng, style: Style) -> Item:
    """A framed picture with content; its back is the plane y = 0."""
    w, h = (
        (rng.uniform(0.35, 0.75), rng.uniform(0.3, 0.6))
        if rng.random() < 0.7
        else (rng.uniform(0.7, 1.2), rng.uniform(0.5, 0.8))
    )
    colors = np.stack([draw_color(rng) for _ in range(3)])
    content = Texture("blobs", colors, 0.2, int(rng.integers(2**31)))
    item = Item("picture", str(rng.choice(["picture", "painting", "poster"])), detail=0.6)
    return _framed(rng, item, style, content, w, h, rng.uniform(0.02, 0.05), rng.uniform(0.02, 0.045), 0.0)


def whiteboard(rng: Rng, style: Style) -> Item:
    """Outside ScanNet20."""
    item = Item("", "whiteboard")
    return _framed(
        rng,
        item,
        style,
        tinted(rng, "plain", np.full(3, 0.9), 0.03),
        rng.uniform(1.0, 1.8),
        rng.uniform(0.7, 1.0),
        0.025,
        0.03,
        0.1,
    )


def mirror(rng: Rng, style: Style) -> Item:
    """Outside ScanNet20; shows a vague gradient instead of a reflection."""
    item = Item("", "mirror", detail=0.8)
    content = tinted(rng, "marble", np.array([0.6, 0.66, 0.7]), 0.08, 0.5)
    return _framed(rng, item, style, content, rng.uniform(0.45, 0.8), rng.uniform(0.55, 0.9), 0.025, 0.025, 0.2)


def radiator(rng: Rng, style: Style) -> Item:
    """A row of ribs below a window."""
    item = Item("other furniture", "radiator", detail=0.75)
    w, h, d = rng.uniform(0.7, 1.2), rng.uniform(0.5, 0.65), rng.uniform(0.08, 0.13)
    step = rng.uniform(0.07, 0.1)
    for x in np.arange(-w / 2, w / 2 - 0.6 * step, step):
        item.add("ribs", style.main, box((x, -d / 2, 0.1), (x + 0.6 * step, d / 2, h), "bn"))
    item.add(
        "pipes",
        style.main,
        rod((-w / 2, 0, 0.14), (w / 2, 0, 0.14), 0.02),
        rod((-w / 2, 0, h - 0.05), (w / 2, 0, h - 0.05), 0.02),
    )
    item.add("pipes", style.main, rod((-w / 2 + 0.04, 0, 0), (-w / 2 + 0.04, 0, 0.14), 0.015, 4))
    item.hull = True
    return item


def ceiling_lamp(rng: Rng, style: Style) -> Item:
    """Hangs from z = 0 downwards. Outside ScanNet20."""
    item = Item("", "ceiling light", detail=0.7)
    white = tinted(rng, "plain", np.full(3, 0.92), 0.03)
    if rng.random() < 0.5:
        item.add("shade", white, lathe([(0.0, -0.09), (0.14, -0.06), (0.18, 0.0)], k=18), gloss=0.8)
    else:
        drop = rng.uniform(0.15, 0.4)
        item.add("cord", style.accent, rod((0, 0, -drop), (0, 0, 0), 0.008, 4))
        item.add(
            "shade",
            style.main,
            lathe([(0.2, -drop - 0.2), (0.08, -drop)], k=16),
            cylinder((0, 0, -drop - 0.1), 0.04, 0.06, 8),
            gloss=0.5,
        )
    return item
