"""What rooms have in common: a workplace, a table with its seats, a run of counters, furniture along walls.

Each is a list of moves on a `RoomLayout`; every draw comes from its generator, in the order written here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_manifests.synthetic import bathroom as bath
from data_manifests.synthetic import clutter, openings, seating, storage, tables
from data_manifests.synthetic.item import Placed
from data_manifests.synthetic.layout import Maker, RoomLayout
from data_manifests.synthetic.textures import draw_style

#: Gaps to try when a chair is pushed to a table: well under it first, then further and further out.
PUSHED_IN = (-0.22, -0.12, -0.04, 0.03, 0.1, 0.2)


def doors_and_windows(room: RoomLayout, windows: tuple[int, int], curtains: float) -> None:
    """A door or two, windows [low, high), curtains before some and radiators under others."""
    rng = room.rng
    room.door()
    if rng.random() < 0.25:
        room.door()
    for _ in range(int(rng.integers(*windows))):
        room.window()
    for i in range(len(room.windows)):
        if rng.random() < curtains:
            room.curtain(i)
        elif rng.random() < 0.5:
            edge, s, _, z0, _ = room.windows[i]
            item = room.make(openings.radiator)
            if item.bounds[1, 2] < z0 - 0.04:
                room.on_wall(item, 0.0, edge=edge, s=s)


def curtains(room: RoomLayout, chance: float) -> None:
    """Before each window with that chance."""
    for i in range(len(room.windows)):
        if room.chance(chance):
            room.curtain(i)


def seats_around(room: RoomLayout, table: Placed) -> None:
    """Chairs of one style, most pushed in, some pulled out."""
    rng = room.rng
    chair = seating.dining_chair if rng.random() < 0.8 else seating.office_chair
    style = draw_style(rng, room.saturation)
    lo, hi = table.item.bounds
    sides: list[tuple[float, float]]
    if table.item.category == "round table":
        count = int(rng.integers(2, 5))
        start = rng.uniform(0, 2 * np.pi)
        sides = [(start + 2 * np.pi * i / count, 0.0) for i in range(count)]
    else:
        per_side = max(1, int((hi[0] - lo[0]) // 0.62))
        sides = [
            (a, (i + 0.5) * (hi[0] - lo[0]) / per_side - (hi[0] - lo[0]) / 2)
            for a in (0.0, np.pi)
            for i in range(per_side)
        ]
        if rng.random() < 0.5:
            sides += [(np.pi / 2, 0.0), (-np.pi / 2, 0.0)]
    for angle, shift in sides:
        if rng.random() < 0.88:
            gaps = PUSHED_IN[int(rng.integers(0, 5)) :]
            room.facing(chair(rng, style), table, angle, gaps, shift, float(rng.normal(0, 0.12)), 0.01)


def workplace(room: RoomLayout) -> Placed | None:
    """A desk with its chair, screens and keyboard; the desk, or None where there is no room."""
    rng = room.rng
    placed = room.against_wall(room.make(tables.desk), front=0.55)
    if placed is None:
        return None
    support = placed.item.supports[0]
    back = support.y0 + 0.3
    for _ in range(int(rng.integers(1, 3))):
        room.set_on(placed, room.make(clutter.monitor), support.x0, support.x1, support.y0, back, support.z, True)
    room.set_on(placed, room.make(clutter.keyboard), -0.35, 0.35, 0.0, support.y1 + 0.15, support.z, True)
    room.on_top(placed, clutter.ON_TABLE, int(rng.integers(0, 3)))
    maker = seating.office_chair if rng.random() < 0.75 else seating.dining_chair
    with room.zones_open():  # the place before a desk is kept free for just this chair
        for shift in (0.0, 0.15, -0.15):
            seat, gaps = room.make(maker), PUSHED_IN[int(rng.integers(0, 4)) :]
            if room.facing(seat, placed, 0.0, gaps, shift, float(rng.normal(0, 0.25)), 0.01):
                break
    return placed


def along_walls(room: RoomLayout, wanted: Sequence[tuple[Maker, float]], *, front: float, laden: bool = True) -> None:
    """Furniture with its back to a wall, each piece with its chance; things stand on it where `laden`."""
    for maker, chance in wanted:
        if room.chance(chance):
            placed = room.against_wall(room.make(maker), front=front)
            if laden and placed is not None:
                room.on_top(placed, clutter.ON_TABLE, int(room.rng.integers(0, 3)))


def pictures(room: RoomLayout, count: int) -> None:
    """At eye height, wherever a wall is free."""
    for _ in range(count):
        item = room.make(openings.picture)
        room.on_wall(
            item, float(room.rng.uniform(1.15, max(1.2, min(1.6, room.plan.height - item.bounds[1, 2] - 0.1))))
        )


def floor_clutter(room: RoomLayout, count: int) -> None:
    """Different small things, most of them by a wall."""
    for i in room.rng.permutation(len(clutter.ON_FLOOR))[:count]:
        item = room.make(clutter.ON_FLOOR[i])
        if room.rng.random() < 0.6:
            room.against_wall(item, tries=8)
        else:
            room.anywhere(item, tries=8)


def ceiling_lamps(room: RoomLayout) -> None:
    """One in the middle of every part of the room."""
    rng = room.rng
    for x0, x1, y0, y1 in room.plan.rectangles:
        if min(x1 - x0, y1 - y0) > 1.6:
            item = room.make(openings.ceiling_lamp)
            at = ((x0 + x1) / 2 + rng.normal(0, 0.1), (y0 + y1) / 2 + rng.normal(0, 0.1), room.plan.height - 0.012)
            room.try_put(item, at, 0.0, zones=False)


def dining(room: RoomLayout) -> None:
    """A table with its seats, in the open if that fits, else by a wall."""
    placed = None
    for margin, wall_gap in ((0.9, 0.9), (0.5, 0.8), (0.2, 0.6), (0.05, 0.0), (0.03, 0.0)):
        table = room.make(tables.round_table if room.chance(0.35) else tables.dining_table)
        placed = placed or room.anywhere(table, tries=40, margin=margin, wall_gap=wall_gap)
    placed = placed or room.against_wall(room.make(tables.dining_table), front=0.3)
    if placed is not None:
        seats_around(room, placed)
        room.on_top(placed, clutter.ON_TABLE, int(room.rng.integers(0, 4)))


def counter_run(room: RoomLayout) -> Placed | None:
    """Base cabinets under a work top with a sink, wall cabinets above, a refrigerator at one end."""
    rng = room.rng
    depth, height = rng.uniform(0.58, 0.66), rng.uniform(0.86, 0.94)
    fridge = room.make(storage.refrigerator)
    for _ in range(60):
        edge = room.plan.edges[rng.integers(len(room.plan.edges))]
        width = min(float(rng.uniform(1.5, 3.4)), edge.length - 0.95)
        if width < 1.3:
            continue
        fridge_side = 1 if rng.random() < 0.5 else -1
        s = width / 2 + 0.03 if fridge_side > 0 else edge.length - width / 2 - 0.03
        if rng.random() < 0.4:
            s = float(rng.uniform(width / 2 + 0.03, edge.length - width / 2 - 0.03))
        if not edge.clear(s - width / 2 - 0.05, s + width / 2 + 0.05, 0.0, height + 0.18):
            continue
        sink_w, sink_d, style = rng.uniform(0.45, 0.75), rng.uniform(0.36, 0.42), draw_style(rng, room.saturation)
        x = float(rng.uniform(-width / 2 + sink_w / 2 + 0.1, width / 2 - sink_w / 2 - 0.1))
        u0, v0 = x + width / 2 - sink_w / 2, (depth - sink_d) / 2 + 0.03
        top = tables.counter(
            rng, draw_style(rng, room.saturation), width, depth + 0.02, height, [(u0, u0 + sink_w, v0, v0 + sink_d)]
        )
        base = storage.base_cabinet(rng, style, width, depth, height - 0.04)
        at = edge.point(s, (depth + 0.02) / 2 + 0.002)
        position, yaw = (float(at[0]), float(at[1]), 0.0), edge.yaw
        whole = Placed(base, np.asarray(position), yaw)
        if not room.free(np.concatenate([whole.boxes(), Placed(top, np.asarray(position), yaw).boxes()])):
            continue
        lead = room.put(base, position, yaw)
        group = room.groups[-1]
        counter = room.put(top, position, yaw, group)
        sink = bath.set_in_sink(rng, draw_style(rng, room.saturation), float(sink_w), float(sink_d), 0.17)
        off = -(depth + 0.02) / 2 + v0 + sink_d / 2
        c, si = np.cos(yaw), np.sin(yaw)
        room.put(sink, (position[0] + c * x - si * off, position[1] + si * x + c * off, height), yaw, group)
        room.keep_free((-width / 2, depth / 2 + 0.05, 0), (width / 2, depth / 2 + 0.6, 1.0), position, yaw)
        if not any(p.item.label == "refrigerator" for p in room.placed):
            room.beside(fridge, lead, fridge_side, 0.03) or room.beside(fridge, lead, -fridge_side, 0.03)
        for at_s in np.arange(s - width / 2 + 0.45, s + width / 2 - 0.4, 0.92):
            if room.chance(0.8):
                room.on_wall(
                    storage.wall_cabinet(rng, style, 0.9), float(rng.uniform(1.42, 1.44)), 1, edge, float(at_s)
                )
        room.on_top(counter, clutter.ON_COUNTER, int(rng.integers(1, 5)))
        return lead
    return None


def vanity(room: RoomLayout) -> Placed | None:
    """A washbasin on a cabinet; the cabinet, or None where there is no room."""
    rng = room.rng
    w, d, h = float(rng.uniform(0.75, 1.3)), float(rng.uniform(0.48, 0.55)), float(rng.uniform(0.74, 0.84))
    base = storage.base_cabinet(rng, draw_style(rng, room.saturation), w, d, h - 0.04)
    base.category = "bathroom vanity"
    lead = room.against_wall(base, front=0.5)
    if lead is None:
        return None
    group = room.groups[-1]
    top = tables.counter(rng, draw_style(rng, room.saturation), w, d, h, [])
    top.category = "bathroom counter"
    counter = room.put(top, lead.position, lead.yaw, group)
    item = bath.vessel_sink(rng, draw_style(rng, room.saturation))
    room.set_on(counter, item, -w / 2, w / 2, -d / 2 + 0.02, d / 2, h, True)
    return lead
