"""A scene's plan from above, with the places from which views are taken: as text and as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.atomic import atomic_path
from chorus_common.viewpoints.places import ring_places, standing_places
from chorus_common.viewpoints.survey import Survey

#: What a place of a plan holds; rooms follow.
OUTSIDE, MATTER, FIRST_ROOM = 0, 1, 2
#: Columns and rows of a text plan; pixels of the longer side of a picture.
TEXT_COLUMNS, TEXT_ROWS, PIXELS = 76, 30, 900
#: Colours: outside, matter, viewpoints, then rooms in turn.
COLOURS = ((238, 238, 238), (70, 70, 70), (200, 30, 30))
ROOM_COLOURS = ((166, 206, 227), (178, 223, 138), (253, 191, 111), (202, 178, 214), (255, 237, 160), (251, 180, 174))
#: The views that a plan shows by default, as stage 1 has them.
VIEWS = 64


def plans_of(survey: Survey, n_views: int = VIEWS) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """One plan per storey (one where there are none): codes [X, Y] as above, and viewpoints [P, 2] in columns."""
    grid = survey.grid
    rng = np.random.default_rng(0)
    if survey.kind == "object":
        fields = np.array([0.7, 0.52])
        eyes, _ = ring_places(survey, n_views, fields)
        codes = np.where(grid.solid.any(axis=2), MATTER, OUTSIDE)
        return [_around(codes, grid.voxels_of(eyes)[:, :2])]
    eyes, rooms = standing_places(survey, max(8, n_views // 2), rng)
    places = grid.voxels_of(eyes)[:, :2]
    if survey.kind == "outdoors":
        return [_around(np.where(grid.solid.any(axis=2), MATTER, OUTSIDE), places)]
    plans = []
    for number, storey in enumerate(survey.storeys):
        inside = [k for k, room in enumerate(survey.rooms) if room.storey == number]
        if not inside:
            continue
        codes = np.where(storey.free, OUTSIDE, MATTER)
        for k in inside:
            codes[tuple(survey.rooms[k].cells.T)] = FIRST_ROOM + k
        cells = np.argwhere(codes >= FIRST_ROOM)
        margin = max(1, round(0.6 / grid.step))
        low = np.maximum(cells.min(axis=0) - margin, 0)
        high = cells.max(axis=0) + margin + 1
        here = places[np.isin(rooms, inside)]
        plans.append((codes[low[0] : high[0], low[1] : high[1]], here - low))
    return plans


def _around(codes: NDArray[np.int64], places: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """A plan that is wide enough for all places."""
    below = np.maximum(np.ceil(-places.min(axis=0)), 0).astype(int) + 1
    above = np.maximum(np.ceil(places.max(axis=0) - codes.shape), 0).astype(int) + 1
    return np.pad(codes, ((below[0], above[0]), (below[1], above[1]))), places + below


def text_plan(survey: Survey, n_views: int = VIEWS) -> str:
    """The plan in letters: # matter at eye height, a to z the free floor of rooms, * a viewpoint; y upwards."""
    drawn = []
    for number, (codes, places) in enumerate(plans_of(survey, n_views)):
        per_column = max(codes.shape[0] / TEXT_COLUMNS, codes.shape[1] / (2 * TEXT_ROWS), 1.0)
        shape = (max(1, int(codes.shape[0] / per_column)), max(1, int(codes.shape[1] / (2 * per_column))))
        letters = np.full(shape, ord(" "), dtype=np.int64)
        x = (np.arange(codes.shape[0]) / per_column).astype(int).clip(max=shape[0] - 1)
        y = (np.arange(codes.shape[1]) / (2 * per_column)).astype(int).clip(max=shape[1] - 1)
        rooms = np.zeros(shape, dtype=np.int64)
        matter, total = np.zeros(shape), np.zeros(shape)
        at = x[:, None].repeat(len(y), axis=1), y[None, :].repeat(len(x), axis=0)
        np.maximum.at(rooms, at, codes)
        np.add.at(matter, at, codes == MATTER)
        np.add.at(total, at, 1)
        letters[rooms >= FIRST_ROOM] = ord("a") + (rooms[rooms >= FIRST_ROOM] - FIRST_ROOM) % 26
        letters[matter >= 0.35 * np.maximum(total, 1)] = ord("#")
        stand = places.astype(int).clip(0, np.array(codes.shape) - 1)
        letters[x[stand[:, 0]], y[stand[:, 1]]] = ord("*")
        lines = ["".join(map(chr, row)).rstrip() for row in letters.T[::-1]]
        drawn += ([""] if number else []) + [line for line in lines if line]
    return "\n".join(drawn)


def write_plan(path: Path, survey: Survey, n_views: int = VIEWS) -> None:
    """Write the plan as a PNG: storeys side by side, rooms in colours, matter dark, viewpoints as dots; y upwards."""
    from PIL import Image, ImageDraw  # here: most checks draw nothing

    panels = plans_of(survey, n_views)
    scale = max(1, int(PIXELS / max(max(codes.shape) for codes, _ in panels)))
    palette = np.array([*COLOURS[:2], *ROOM_COLOURS], dtype=np.uint8)
    pictures = []
    for codes, places in panels:
        index = np.where(codes < FIRST_ROOM, codes, FIRST_ROOM + (codes - FIRST_ROOM) % len(ROOM_COLOURS))
        pixels = palette[index.T[::-1]].repeat(scale, axis=0).repeat(scale, axis=1)
        picture = Image.fromarray(pixels)
        draw = ImageDraw.Draw(picture)
        radius = max(2.0, 0.8 * scale)
        for x, y in places:
            across, down = x * scale, (codes.shape[1] - y) * scale
            draw.ellipse((across - radius, down - radius, across + radius, down + radius), fill=COLOURS[2])
        pictures.append(picture)
    gap = 12
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    page = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        page.paste(picture, (left, 0))
        left += picture.width + gap
    with atomic_path(path) as temporary:
        page.save(temporary, format="PNG")
