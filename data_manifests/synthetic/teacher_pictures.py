"""Pictures of synthetic rooms with what their cells show: what the embedded teachers of stage 1 are trained on.

    python -m data_manifests.synthetic.teacher_pictures text --rooms 480 --scans 0.5 --out text.npz --workers 2
    python -m data_manifests.synthetic.teacher_pictures objects --rooms 250 --held-out 8 --out objects.npz --workers 2

Of the rooms, a share is seen as scans (options.DOMAINS). Their seeds begin where those of data sets end, so that no
demo, test or study uses them. One file holds everything that a training script reads
(stage1_render_teachers/teachers/train_text_aligned.py, train_object_aware.py):

    both     "images" [P, H, W, 3] u8, room after room, the held-out rooms last; "rooms", "held_out", "cell": numbers
    text     "shares" [P, rows, cols, 20] u8: share of each ScanNet20 class in each cell, 255 = all of it;
             "classes" [20]: their names
    objects  "instances" and "kinds" [P, rows, cols] i16: the object that fills most of the cell, and its kind;
             -1 = none; "shares" [P, rows, cols] u8: how much of the cell it fills, 255 = all of it;
             "kind_names" [K]: raw categories; "kind_classes" [K] i64: the ScanNet20 class of each kind, -1 = none
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from chorus_common.labels import SCANNET20
from chorus_common.lifting import CellGrid
from chorus_common.rasterize import get_backend
from chorus_common.runtime.atomic import atomic_path
from chorus_common.runtime.errors import run_cli
from chorus_common.runtime.progress import progress
from data_manifests.synthetic.categories import CATEGORIES
from data_manifests.synthetic.dataset import RESERVED_SEEDS
from data_manifests.synthetic.options import RoomOptions
from data_manifests.synthetic.room import SyntheticRoom, generate_room

#: Edge of a cell in pixels: the patch of the embedded teachers' network.
CELL = 8
#: Points of a scan.
SCAN_POINTS = 40_000
KINDS = tuple(CATEGORIES)

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class PictureRoom:
    """A room to render."""

    seed: int
    options: RoomOptions


def picture_rooms(count: int, scans: float) -> list[PictureRoom]:
    """The first `count` reserved rooms, of which the share `scans`, evenly spread, is seen as scans."""
    rooms = []
    for i in range(count):
        is_scan = int((i + 1) * scans) > int(i * scans)
        options = RoomOptions(domain="scan", gaussians=SCAN_POINTS) if is_scan else RoomOptions()
        rooms.append(PictureRoom(RESERVED_SEEDS + i, options))
    return rooms


def render_room(
    job: PictureRoom, groups: Callable[[SyntheticRoom], tuple[NDArray[np.integer] | None, int]]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """One room's pictures [V, H, W, 3] u8 and the share of each group in each cell [V, rows, cols, K].

    groups: the group [N] of every Gaussian, negative for none, and K.
    """
    room = generate_room(job.seed, job.options)
    group, count = groups(room)
    assert group is not None
    cameras = room.cameras
    grid = CellGrid(cameras.width, cameras.height, CELL)
    backend = get_backend("cpu")
    images = np.empty((len(cameras), cameras.height, cameras.width, 3), dtype=np.uint8)
    shares = np.zeros((len(cameras), grid.rows * grid.cols, count))
    for v in range(len(cameras)):
        view, k = cameras.viewmats[v], cameras.intrinsics[v]
        out = backend.render(room.scene, view, k, cameras.width, cameras.height, grid=grid)
        images[v] = np.rint(np.clip(out.color, 0, 1) * 255)
        assert out.hits is not None
        hit = group[out.hits.gaussian_ids]
        known = hit >= 0
        np.add.at(shares[v], (out.hits.cells[known], hit[known]), out.hits.weights[known] / CELL**2)
    return images, shares.reshape(len(cameras), grid.rows, grid.cols, count)


def render_shares(job: PictureRoom) -> Arrays:
    """One room: "images" [V, H, W, 3] u8 and "shares" of each class per cell [V, rows, cols, 20] u8 (255 = all)."""
    images, shares = render_room(job, lambda room: (room.scene.labels, len(SCANNET20)))
    return {"images": images, "shares": np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)}


def render_objects(job: PictureRoom) -> Arrays:
    """One room: "images" [V, H, W, 3] u8, and per cell [V, rows, cols] the object that fills most of it: "instances"
    and "kinds" (places in `KINDS`) i16, -1 for none, with its "shares" u8 (255 = the whole cell).
    """
    kind_of = np.zeros(0, dtype=np.int16)

    def instances(room: SyntheticRoom) -> tuple[np.ndarray | None, int]:
        nonlocal kind_of
        kind_of = np.full(1 + max(info.id for info in room.instances), -1, dtype=np.int16)
        for info in room.instances:
            kind_of[info.id] = KINDS.index(info.category)
        return room.scene.instances, len(kind_of)

    images, shares = render_room(job, instances)
    best, most = shares.argmax(axis=-1), shares.max(axis=-1)
    return {
        "images": images,
        "instances": np.where(most > 0, best, -1).astype(np.int16),
        "kinds": np.where(most > 0, kind_of[best], -1).astype(np.int16),
        "shares": np.rint(np.clip(most, 0, 1) * 255).astype(np.uint8),
    }


def pool_rooms(render: Callable[[PictureRoom], Arrays], rooms: Sequence[PictureRoom], workers: int) -> Arrays:
    """`render(room)` of all rooms in `workers` processes, its arrays concatenated."""
    parts: list[Arrays] = []
    with (
        progress(len(rooms), "rooms") as report,
        ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor,
    ):
        for part in executor.map(render, rooms):
            parts.append(part)
            report.advance()
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def text_pool(rooms: int, held_out: int, scans: float, workers: int) -> Arrays:
    """Everything that the text-aligned teacher is trained on; arrays: see the module."""
    return {
        **pool_rooms(render_shares, picture_rooms(rooms + held_out, scans), workers),
        **_counts(rooms, held_out),
        **text_names(),
    }


def object_pool(rooms: int, held_out: int, scans: float, workers: int) -> Arrays:
    """Everything that the object-aware teacher is trained on; arrays: see the module."""
    return {
        **pool_rooms(render_objects, picture_rooms(rooms + held_out, scans), workers),
        **_counts(rooms, held_out),
        **object_names(),
    }


def text_names() -> Arrays:
    """What the classes are called."""
    return {"classes": np.array(SCANNET20)}


def object_names() -> Arrays:
    """What the kinds are called, and which ScanNet20 class each of them is."""
    classes = np.array([category.scannet20 for category in CATEGORIES.values()], dtype=np.int64)
    return {"kind_names": np.array(KINDS), "kind_classes": classes}


def _counts(rooms: int, held_out: int) -> Arrays:
    return {"rooms": np.array(rooms), "held_out": np.array(held_out), "cell": np.array(CELL)}


POOLS: dict[str, Callable[[int, int, float, int], Arrays]] = {"text": text_pool, "objects": object_pool}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("what", type=click.Choice(list(POOLS)))
@click.option("--rooms", type=click.IntRange(min=1), required=True, help="Rooms to train on.")
@click.option("--held-out", type=click.IntRange(min=1), default=8, show_default=True, help="More rooms to measure on.")
@click.option("--scans", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Share seen as scans.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The .npz to write.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Processes that render.")
def main(what: str, rooms: int, held_out: int, scans: float, out: Path, workers: int) -> None:
    """Render reserved rooms for the training of the embedded teacher WHAT."""
    arrays = POOLS[what](rooms, held_out, scans, workers)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, allow_pickle=False, **arrays)
    click.echo(f"{out}: {len(arrays['images'])} pictures of {rooms} + {held_out} rooms")


if __name__ == "__main__":
    run_cli(main)
