"""What belongs into which room: one function per room type, each a list of moves on a `RoomLayout`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data_manifests.synthetic import bathroom as bath
from data_manifests.synthetic import bedroom, clutter, openings, seating, storage, tables
from data_manifests.synthetic.assemblies import (
    along_walls,
    ceiling_lamps,
    counter_run,
    curtains,
    dining,
    doors_and_windows,
    floor_clutter,
    pictures,
    vanity,
    workplace,
)
from data_manifests.synthetic.layout import RoomLayout
from data_manifests.synthetic.textures import draw_style


def living_room(room: RoomLayout) -> None:
    """Sofa group around a coffee table, television, shelves, often a dining table."""
    rng = room.rng
    doors_and_windows(room, (1, 4), 0.75)
    couch = room.against_wall(room.make(seating.sofa), front=0.5)
    if couch is not None:
        low = room.make(tables.coffee_table)
        with room.zones_open():
            gaps = tuple(rng.uniform(0.3, 0.5) + d for d in (0.0, -0.1))
            room.facing(low, couch, 0.0, gaps, float(rng.normal(0, 0.1)))
        for side in (-1, 1):
            if room.chance(0.4):
                end = room.beside(room.make(tables.side_table), couch, side, float(rng.uniform(0.04, 0.12)))
                if end is not None:
                    room.on_top(end, clutter.ON_TABLE, 1)
            elif room.chance(0.5):
                room.beside(room.make(clutter.floor_lamp if room.chance(0.6) else clutter.plant), couch, side, 0.1)
        if room.chance(0.4):
            room.facing(room.make(seating.sofa), couch, float(rng.choice([-1, 1]) * np.pi / 2), (0.4, 0.6, 0.8), 0.8)
    for placed in list(room.placed):
        if placed.item.category == "coffee table":
            for angle in rng.permutation([0.0, np.pi / 2, -np.pi / 2])[: int(rng.integers(0, 3))]:
                room.facing(
                    room.make(seating.armchair), placed, float(angle), (0.35, 0.5, 0.7), 0.0, float(rng.normal(0, 0.25))
                )
            room.on_top(placed, clutter.ON_TABLE, int(rng.integers(0, 4)))
    if room.chance(0.75):
        stand = room.against_wall(room.make(storage.tv_stand), front=0.4)
        if stand is not None:
            support = stand.item.supports[0]
            room.set_on(
                stand, room.make(clutter.television), support.x0, support.x1, support.y0, support.y1, support.z, True
            )
    wanted = (
        (storage.bookshelf, 0.8),
        (storage.bookshelf, 0.35),
        (storage.cabinet, 0.7),
        (storage.cabinet, 0.3),
    )
    along_walls(room, wanted, front=0.35)
    if room.chance(0.6):
        dining(room)
    if room.chance(0.25):
        workplace(room)
    if room.chance(0.4):
        room.anywhere(room.make(seating.ottoman))
    pictures(room, int(rng.integers(1, 6)))
    if room.chance(0.4):
        room.on_wall(room.make(clutter.shelf_board), float(rng.uniform(1.2, 1.6)))
    floor_clutter(room, int(rng.integers(1, 5)))
    ceiling_lamps(room)


def bedroom_room(room: RoomLayout) -> None:
    """Bed with what stands beside it, wardrobe, chest, sometimes a desk."""
    rng = room.rng
    doors_and_windows(room, (1, 3), 0.8)
    for _ in range(1 + int(rng.random() < 0.2)):
        bed = room.against_wall(room.make(bedroom.bed), front=0.4, tries=50)
        if bed is None:
            continue
        for side in (-1, 1):
            if room.chance(0.75):
                stand = room.beside(
                    room.make(tables.nightstand if room.chance(0.5) else tables.side_table), bed, side, 0.05
                )
                if stand is not None:
                    room.on_top(stand, (clutter.table_lamp, clutter.book_stack, clutter.vase), int(rng.integers(0, 3)))
        if room.chance(0.25):
            room.facing(room.make(seating.bench), bed, 0.0, (0.05, 0.1))
    if room.chance(0.75):
        workplace(room)
    wanted = (
        (storage.wardrobe, 0.8),
        (storage.cabinet, 0.85),
        (storage.bookshelf, 0.45),
        (clutter.clothing_rack, 0.2),
    )
    along_walls(room, wanted, front=0.4)
    if room.chance(0.45):
        room.anywhere(room.make(seating.armchair if room.chance(0.5) else seating.dining_chair))
    if room.chance(0.3):
        room.on_wall(room.make(openings.mirror), float(rng.uniform(0.9, 1.2)))
    pictures(room, int(rng.integers(1, 5)))
    floor_clutter(room, int(rng.integers(1, 5)))
    ceiling_lamps(room)


def office(room: RoomLayout) -> None:
    """Desks with screens and swivel chairs, file cabinets, a meeting table."""
    rng = room.rng
    doors_and_windows(room, (1, 4), 0.35)
    for _ in range(int(rng.integers(2, 5))):
        workplace(room)
    wanted = (
        (storage.bookshelf, 0.8),
        (storage.bookshelf, 0.4),
        (storage.file_cabinet, 0.8),
        (storage.file_cabinet, 0.5),
        (storage.cabinet, 0.5),
        (clutter.water_cooler, 0.2),
        (seating.sofa, 0.2),
        (clutter.stepladder, 0.15),
    )
    along_walls(room, wanted, front=0.35)
    if room.chance(0.5):
        dining(room)
    for _ in range(int(rng.integers(0, 3))):
        room.anywhere(room.make(seating.office_chair if room.chance(0.5) else seating.dining_chair))
    if room.chance(0.6):
        room.on_wall(room.make(openings.whiteboard), float(rng.uniform(0.85, 1.1)))
    pictures(room, int(rng.integers(0, 4)))
    floor_clutter(room, int(rng.integers(2, 6)))
    ceiling_lamps(room)


def kitchen(room: RoomLayout) -> None:
    """A counter with sink and refrigerator, mostly a table with chairs."""
    rng = room.rng
    room.door()
    run = counter_run(room)
    if room.chance(0.35):
        counter_run(room)
    for _ in range(int(rng.integers(1, 3))):
        room.window()
    curtains(room, 0.5)
    if run is None or not any(p.item.label == "refrigerator" for p in room.placed):
        room.against_wall(room.make(storage.refrigerator), front=0.5)
    if room.chance(0.85):
        dining(room)
    wanted = (
        (storage.cabinet, 0.5),
        (clutter.trash_can, 0.8),
        (seating.bench, 0.15),
        (storage.bookshelf, 0.2),
    )
    along_walls(room, wanted, front=0.2)
    pictures(room, int(rng.integers(0, 3)))
    if room.chance(0.4):
        room.on_wall(room.make(clutter.shelf_board), float(rng.uniform(1.3, 1.6)))
    floor_clutter(room, int(rng.integers(0, 4)))
    ceiling_lamps(room)


def bathroom(room: RoomLayout) -> None:
    """Toilet, sink, bathtub with its curtain, mirror."""
    rng = room.rng
    room.door()
    length = float(rng.uniform(1.5, 1.75))
    tub = room.against_wall(
        bath.bathtub(rng, draw_style(rng, room.saturation), length), front=0.3, corner=True, tries=60
    )
    if tub is not None and room.chance(0.85):
        _, hi = tub.item.bounds
        top = min(rng.uniform(1.9, 2.1), room.plan.height - 0.08)
        item = bath.shower_curtain(
            rng, draw_style(rng, room.saturation), length, float(top), float(rng.uniform(0.1, 0.4))
        )
        y = hi[1] + 0.07
        x, z = tub.position[0] - np.sin(tub.yaw) * y, tub.position[1] + np.cos(tub.yaw) * y
        with room.zones_open():
            room.try_put(item, (float(x), float(z), 0.0), tub.yaw, 0.0)
    room.against_wall(room.make(bath.toilet), front=0.4, tries=50)
    basin = vanity(room) if room.chance(0.5) else room.against_wall(room.make(bath.pedestal_sink), front=0.4, tries=50)
    if basin is not None and room.chance(0.8):
        at = basin.position[:2]
        edge = min(room.plan.edges, key=lambda e: float(np.linalg.norm(e.point(float((at - e.a) @ e.along)) - at)))
        room.on_wall(room.make(openings.mirror), 1.15, edge=edge, s=float((at - edge.a) @ edge.along))
    if room.chance(0.6):
        room.window()
    curtains(room, 0.5)
    wanted = (
        (bath.washing_machine, 0.3),
        (storage.cabinet, 0.4),
        (clutter.trash_can, 0.6),
        (storage.bookshelf, 0.1),
    )
    along_walls(room, wanted, front=0.2, laden=False)
    if room.chance(0.3):
        room.on_wall(storage.wall_cabinet(rng, draw_style(rng, room.saturation), 0.6), 1.4)
    pictures(room, int(rng.integers(0, 2)))
    floor_clutter(room, int(rng.integers(0, 2)))
    ceiling_lamps(room)


@dataclass(frozen=True)
class RoomRecipe:
    """How to furnish one type of room, its size range in metres, and how often it occurs."""

    furnish: Callable[[RoomLayout], None]
    width: tuple[float, float]
    depth: tuple[float, float]
    share: float
    tiled: bool = False


RECIPES: dict[str, RoomRecipe] = {
    "living room": RoomRecipe(living_room, (4.2, 7.0), (3.6, 5.6), 0.23),
    "bedroom": RoomRecipe(bedroom_room, (3.4, 5.2), (3.2, 4.6), 0.2),
    "office": RoomRecipe(office, (3.4, 6.5), (3.2, 5.2), 0.22),
    "kitchen": RoomRecipe(kitchen, (3.4, 5.6), (3.0, 4.6), 0.19),
    "bathroom": RoomRecipe(bathroom, (3.0, 4.0), (2.4, 3.4), 0.16, tiled=True),
}
