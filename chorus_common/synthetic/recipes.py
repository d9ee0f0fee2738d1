"""What belongs into which room: one function per room type, each a list of moves on a `Layout`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from chorus_common.synthetic import bathroom as bath
from chorus_common.synthetic import bedroom, clutter, openings, seating, storage, tables
from chorus_common.synthetic.item import Placed
from chorus_common.synthetic.layout import Layout
from chorus_common.synthetic.textures import draw_style

#: Gaps to try when a chair is pushed to a table: well under it first, then further and further out.
PUSHED_IN = (-0.22, -0.12, -0.04, 0.03, 0.1, 0.2)


def _openings(room: Layout, windows: tuple[int, int], curtains: float) -> None:
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


def _seats_around(room: Layout, table: Placed) -> None:
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


def _workplace(room: Layout) -> Placed | None:
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
    zones, room.zones = room.zones, room.zones[:0]  # the place before a desk is kept free for just this chair
    maker = seating.office_chair if rng.random() < 0.75 else seating.dining_chair
    for shift in (0.0, 0.15, -0.15):
        if room.facing(
            room.make(maker), placed, 0.0, PUSHED_IN[int(rng.integers(0, 4)) :], shift, float(rng.normal(0, 0.25)), 0.01
        ):
            break
    room.zones = zones
    return placed


def _pictures(room: Layout, count: int) -> None:
    for _ in range(count):
        item = room.make(openings.picture)
        room.on_wall(
            item, float(room.rng.uniform(1.15, max(1.2, min(1.6, room.plan.height - item.bounds[1, 2] - 0.1))))
        )


def _floor_clutter(room: Layout, count: int) -> None:
    for i in room.rng.permutation(len(clutter.ON_FLOOR))[:count]:
        item = room.make(clutter.ON_FLOOR[i])
        if room.rng.random() < 0.6:
            room.against_wall(item, tries=8)
        else:
            room.anywhere(item, tries=8)


def _ceiling_lamps(room: Layout) -> None:
    rng = room.rng
    for x0, x1, y0, y1 in room.plan.rectangles:
        if min(x1 - x0, y1 - y0) > 1.6:
            item = room.make(openings.ceiling_lamp)
            at = ((x0 + x1) / 2 + rng.normal(0, 0.1), (y0 + y1) / 2 + rng.normal(0, 0.1), room.plan.height - 0.012)
            room.try_put(item, at, 0.0, zones=False)


def _maybe(room: Layout, chance: float) -> bool:
    return bool(room.rng.random() < chance)


def living_room(room: Layout) -> None:
    """Sofa group around a coffee table, television, shelves, often a dining table."""
    rng = room.rng
    _openings(room, (1, 4), 0.75)
    couch = room.against_wall(room.make(seating.sofa), front=0.5)
    if couch is not None:
        low = room.make(tables.coffee_table)
        zones, room.zones = room.zones, room.zones[:0]
        room.facing(low, couch, 0.0, tuple(rng.uniform(0.3, 0.5) + d for d in (0.0, -0.1)), float(rng.normal(0, 0.1)))
        room.zones = zones
        for side in (-1, 1):
            if _maybe(room, 0.4):
                end = room.beside(room.make(tables.side_table), couch, side, float(rng.uniform(0.04, 0.12)))
                if end is not None:
                    room.on_top(end, clutter.ON_TABLE, 1)
            elif _maybe(room, 0.5):
                room.beside(room.make(clutter.floor_lamp if _maybe(room, 0.6) else clutter.plant), couch, side, 0.1)
        if _maybe(room, 0.4):
            room.facing(room.make(seating.sofa), couch, float(rng.choice([-1, 1]) * np.pi / 2), (0.4, 0.6, 0.8), 0.8)
    for placed in list(room.placed):
        if placed.item.category == "coffee table":
            for angle in rng.permutation([0.0, np.pi / 2, -np.pi / 2])[: int(rng.integers(0, 3))]:
                room.facing(
                    room.make(seating.armchair), placed, float(angle), (0.35, 0.5, 0.7), 0.0, float(rng.normal(0, 0.25))
                )
            room.on_top(placed, clutter.ON_TABLE, int(rng.integers(0, 4)))
    if _maybe(room, 0.75):
        stand = room.against_wall(room.make(storage.tv_stand), front=0.4)
        if stand is not None:
            support = stand.item.supports[0]
            room.set_on(
                stand, room.make(clutter.television), support.x0, support.x1, support.y0, support.y1, support.z, True
            )
    for maker, chance in (
        (storage.bookshelf, 0.8),
        (storage.bookshelf, 0.35),
        (storage.cabinet, 0.7),
        (storage.cabinet, 0.3),
    ):
        if _maybe(room, chance):
            chest = room.against_wall(room.make(maker), front=0.35)
            if chest is not None:
                room.on_top(chest, clutter.ON_TABLE, int(rng.integers(0, 3)))
    if _maybe(room, 0.6):
        _dining(room)
    if _maybe(room, 0.25):
        _workplace(room)
    if _maybe(room, 0.4):
        room.anywhere(room.make(seating.ottoman))
    _pictures(room, int(rng.integers(1, 6)))
    if _maybe(room, 0.4):
        room.on_wall(room.make(clutter.shelf_board), float(rng.uniform(1.2, 1.6)))
    _floor_clutter(room, int(rng.integers(1, 5)))
    _ceiling_lamps(room)


def _dining(room: Layout) -> None:
    placed = None
    for margin, wall_gap in ((0.9, 0.9), (0.5, 0.8), (0.2, 0.6), (0.05, 0.0), (0.03, 0.0)):
        table = room.make(tables.round_table if _maybe(room, 0.35) else tables.dining_table)
        placed = placed or room.anywhere(table, tries=40, margin=margin, wall_gap=wall_gap)
    placed = placed or room.against_wall(room.make(tables.dining_table), front=0.3)
    if placed is not None:
        _seats_around(room, placed)
        room.on_top(placed, clutter.ON_TABLE, int(room.rng.integers(0, 4)))


def bedroom_room(room: Layout) -> None:
    """Bed with what stands beside it, wardrobe, chest, sometimes a desk."""
    rng = room.rng
    _openings(room, (1, 3), 0.8)
    for _ in range(1 + int(rng.random() < 0.2)):
        bed = room.against_wall(room.make(bedroom.bed), front=0.4, tries=50)
        if bed is None:
            continue
        for side in (-1, 1):
            if _maybe(room, 0.75):
                stand = room.beside(
                    room.make(tables.nightstand if _maybe(room, 0.5) else tables.side_table), bed, side, 0.05
                )
                if stand is not None:
                    room.on_top(stand, (clutter.table_lamp, clutter.book_stack, clutter.vase), int(rng.integers(0, 3)))
        if _maybe(room, 0.25):
            room.facing(room.make(seating.bench), bed, 0.0, (0.05, 0.1))
    if _maybe(room, 0.75):
        _workplace(room)
    for maker, chance in (
        (storage.wardrobe, 0.8),
        (storage.cabinet, 0.85),
        (storage.bookshelf, 0.45),
        (clutter.clothing_rack, 0.2),
    ):
        if _maybe(room, chance):
            placed = room.against_wall(room.make(maker), front=0.4)
            if placed is not None:
                room.on_top(placed, clutter.ON_TABLE, int(rng.integers(0, 3)))
    if _maybe(room, 0.45):
        room.anywhere(room.make(seating.armchair if _maybe(room, 0.5) else seating.dining_chair))
    if _maybe(room, 0.3):
        room.on_wall(room.make(openings.mirror), float(rng.uniform(0.9, 1.2)))
    _pictures(room, int(rng.integers(1, 5)))
    _floor_clutter(room, int(rng.integers(1, 5)))
    _ceiling_lamps(room)


def office(room: Layout) -> None:
    """Desks with screens and swivel chairs, file cabinets, a meeting table."""
    rng = room.rng
    _openings(room, (1, 4), 0.35)
    for _ in range(int(rng.integers(2, 5))):
        _workplace(room)
    for maker, chance in (
        (storage.bookshelf, 0.8), (storage.bookshelf, 0.4), (storage.file_cabinet, 0.8), (storage.file_cabinet, 0.5),
        (storage.cabinet, 0.5),
        (clutter.water_cooler, 0.2), (seating.sofa, 0.2), (clutter.stepladder, 0.15),
    ):  # fmt: skip
        if _maybe(room, chance):
            chest = room.against_wall(room.make(maker), front=0.35)
            if chest is not None:
                room.on_top(chest, clutter.ON_TABLE, int(rng.integers(0, 3)))
    if _maybe(room, 0.5):
        _dining(room)
    for _ in range(int(rng.integers(0, 3))):
        room.anywhere(room.make(seating.office_chair if _maybe(room, 0.5) else seating.dining_chair))
    if _maybe(room, 0.6):
        room.on_wall(room.make(openings.whiteboard), float(rng.uniform(0.85, 1.1)))
    _pictures(room, int(rng.integers(0, 4)))
    _floor_clutter(room, int(rng.integers(2, 6)))
    _ceiling_lamps(room)


def _counter_run(room: Layout) -> Placed | None:
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
            if _maybe(room, 0.8):
                room.on_wall(
                    storage.wall_cabinet(rng, style, 0.9), float(rng.uniform(1.42, 1.44)), 1, edge, float(at_s)
                )
        room.on_top(counter, clutter.ON_COUNTER, int(rng.integers(1, 5)))
        return lead
    return None


def kitchen(room: Layout) -> None:
    """A counter with sink and refrigerator, mostly a table with chairs."""
    rng = room.rng
    room.door()
    run = _counter_run(room)
    if _maybe(room, 0.35):
        _counter_run(room)
    for _ in range(int(rng.integers(1, 3))):
        room.window()
    for i in range(len(room.windows)):
        if _maybe(room, 0.5):
            room.curtain(i)
    if run is None or not any(p.item.label == "refrigerator" for p in room.placed):
        room.against_wall(room.make(storage.refrigerator), front=0.5)
    if _maybe(room, 0.85):
        _dining(room)
    for maker, chance in (
        (storage.cabinet, 0.5),
        (clutter.trash_can, 0.8),
        (seating.bench, 0.15),
        (storage.bookshelf, 0.2),
    ):
        if _maybe(room, chance):
            placed = room.against_wall(room.make(maker), front=0.2)
            if placed is not None:
                room.on_top(placed, clutter.ON_TABLE, int(rng.integers(0, 3)))
    _pictures(room, int(rng.integers(0, 3)))
    if _maybe(room, 0.4):
        room.on_wall(room.make(clutter.shelf_board), float(rng.uniform(1.3, 1.6)))
    _floor_clutter(room, int(rng.integers(0, 4)))
    _ceiling_lamps(room)


def _vanity(room: Layout) -> Placed | None:
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


def bathroom(room: Layout) -> None:
    """Toilet, sink, bathtub with its curtain, mirror."""
    rng = room.rng
    room.door()
    length = float(rng.uniform(1.5, 1.75))
    tub = room.against_wall(
        bath.bathtub(rng, draw_style(rng, room.saturation), length), front=0.3, corner=True, tries=60
    )
    if tub is not None and _maybe(room, 0.85):
        _, hi = tub.item.bounds
        top = min(rng.uniform(1.9, 2.1), room.plan.height - 0.08)
        item = bath.shower_curtain(
            rng, draw_style(rng, room.saturation), length, float(top), float(rng.uniform(0.1, 0.4))
        )
        y = hi[1] + 0.07
        x, z = tub.position[0] - np.sin(tub.yaw) * y, tub.position[1] + np.cos(tub.yaw) * y
        zones, room.zones = room.zones, room.zones[:0]
        room.try_put(item, (float(x), float(z), 0.0), tub.yaw, 0.0)
        room.zones = zones
    room.against_wall(room.make(bath.toilet), front=0.4, tries=50)
    basin = (
        _vanity(room) if _maybe(room, 0.5) else room.against_wall(room.make(bath.pedestal_sink), front=0.4, tries=50)
    )
    if basin is not None and _maybe(room, 0.8):
        at = basin.position[:2]
        edge = min(room.plan.edges, key=lambda e: float(np.linalg.norm(e.point(float((at - e.a) @ e.along)) - at)))
        room.on_wall(room.make(openings.mirror), 1.15, edge=edge, s=float((at - edge.a) @ edge.along))
    if _maybe(room, 0.6):
        room.window()
    for i in range(len(room.windows)):
        if _maybe(room, 0.5):
            room.curtain(i)
    for maker, chance in (
        (bath.washing_machine, 0.3),
        (storage.cabinet, 0.4),
        (clutter.trash_can, 0.6),
        (storage.bookshelf, 0.1),
    ):
        if _maybe(room, chance):
            room.against_wall(room.make(maker), front=0.2)
    if _maybe(room, 0.3):
        room.on_wall(storage.wall_cabinet(rng, draw_style(rng, room.saturation), 0.6), 1.4)
    _pictures(room, int(rng.integers(0, 2)))
    _floor_clutter(room, int(rng.integers(0, 2)))
    _ceiling_lamps(room)


@dataclass(frozen=True)
class Recipe:
    """How to furnish one type of room, its size range in metres, and how often it occurs."""

    furnish: Callable[[Layout], None]
    width: tuple[float, float]
    depth: tuple[float, float]
    share: float
    tiled: bool = False


RECIPES: dict[str, Recipe] = {
    "living room": Recipe(living_room, (4.2, 7.0), (3.6, 5.6), 0.23),
    "bedroom": Recipe(bedroom_room, (3.4, 5.2), (3.2, 4.6), 0.2),
    "office": Recipe(office, (3.4, 6.5), (3.2, 5.2), 0.22),
    "kitchen": Recipe(kitchen, (3.4, 5.6), (3.0, 4.6), 0.19),
    "bathroom": Recipe(bathroom, (3.0, 4.0), (2.4, 3.4), 0.16, tiled=True),
}
