"""The raw S3DIS release layout (Stanford3dDataset_v1.2), from our rooms: what an S3DIS reader must be able to read.

<out>/Stanford3dDataset_v1.2/Area_k/<room>/<room>.txt                      all points: x y z r g b
                                          /Annotations/<class>_<n>.txt     the points of one object
                             Area_k/Area_k_alignmentAngle.txt              turn of each room in degrees
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_manifests.synthetic.categories import S3DIS_OF
from data_manifests.synthetic.model import Model, generator, sample_model, surface_colors
from data_manifests.synthetic.room import SyntheticRoom

ROOM_NAMES = {"living room": "lounge", "bedroom": "storage", "office": "office", "kitchen": "pantry", "bathroom": "WC"}


def alignment_angle(model: Model) -> int:
    """Turn of the room in whole degrees, 0-359: turning its points by minus this aligns its walls with the axes."""
    return round(float(np.degrees(np.arctan2(model.world[1, 0], model.world[0, 0])))) % 360


def write_s3dis(room: SyntheticRoom, folder: Path, name: str, *, points: int, defects: bool = False) -> None:
    """Write one room of about `points` points, called `name`, into `folder`.

    With `defects` the room shows what is wrong with the release: an object of a class outside the thirteen ("stairs"),
    and in the ceiling's file one line where a control character stands in place of a space.
    """
    samples = sample_model(room.model, points, generator(room.model.seed, "points"))
    colors = surface_colors(room.model, samples)
    # files hold whole degrees only: turn the room by what rounding leaves
    world = room.model.world
    turn = np.radians(alignment_angle(room.model)) - np.arctan2(world[1, 0], world[0, 0])
    c, s = np.cos(turn), np.sin(turn)
    points3 = samples.point @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T
    rgb = np.rint(np.clip(colors, 0, 1) * 255).astype(np.int64)
    instance = np.array(room.model.part_items)[room.model.patch_parts[samples.patch]]
    (folder / "Annotations").mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    everything: list[str] = []
    for info in room.instances:
        rows = np.flatnonzero(instance == info.id)
        if not len(rows):
            continue
        kind = S3DIS_OF.get(info.category, "clutter")
        if defects and kind == "clutter" and "stairs" not in counts:
            kind = "stairs"
        counts[kind] = counts.get(kind, 0) + 1
        lines = [
            f"{x:.3f} {y:.3f} {z:.3f} {r} {g} {b}"
            for (x, y, z), (r, g, b) in zip(points3[rows].tolist(), rgb[rows].tolist())
        ]
        everything += lines
        if defects and kind == "ceiling":
            middle = len(lines) // 2
            head, _, tail = lines[middle].rpartition(" ")
            lines[middle] = f"{head}\x10{tail}"
        (folder / "Annotations" / f"{kind}_{counts[kind]}.txt").write_text("\n".join(lines) + "\n", encoding="ascii")
    (folder / f"{name}.txt").write_text("\n".join(everything) + "\n", encoding="ascii")


def alignment_file(area: int, angles: dict[str, int]) -> str:
    """Area_k_alignmentAngle.txt."""
    lines = [
        f"## Global alignment angle per disjoint space in Area_{area} ##",
        "## Disjoint Space Name Global Alignment Angle ##",
    ]
    return "\n".join([*lines, *(f"{name} {angle}" for name, angle in angles.items())]) + "\n"
