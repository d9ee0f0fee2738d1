"""S3DIS in its release layout: the annotated objects of a room, one text file each -> its points with labels.

    Stanford3dDataset_v1.2/Area_k/<room>/Annotations/<class>_<n>.txt     lines "x y z r g b", metres and 0 to 255
                           Area_k/Area_k_alignmentAngle.txt              turn of each room in degrees

The points of a room are those of its objects, files in the order of their names. What is odd in the release is read
so: classes outside of the thirteen (stairs) are clutter, as in Pointcept's preprocess_s3dis.py; a control character
inside a line stands for the space, or else the digit 0, which makes the line six numbers (v1.2: "103.0?0000" in line
323474 of Area_5/office_19/Annotations/ceiling_1.txt; aligned release: "185?187" in line 180389 of Area_5/hallway_6/
Annotations/ceiling_1.txt). Both are noted with the scene.
"""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from chorus_common.labels import S3DIS13
from chorus_common.manifest import check_name
from chorus_common.scene_io.bounds import check_finite, fail
from data_manifests.datasets.find import Found
from data_manifests.datasets.raw_scene import Annotations, LabelledPoints, RawScene, SceneSource
from data_manifests.datasets.settings import S3disRelease

#: Bytes that no line of numbers holds: control characters but for tab, line feed and carriage return; and above ASCII.
_STRAY = re.compile(rb"[^\t\n\r\x20-\x7e]+")


def find_s3dis(release: S3disRelease, root: Path, wanted: list[str]) -> Found:
    """The rooms of all areas, as Area_k_<room>; those of the held-out area are val, the others train."""
    found, base = Found(), root / release.folder
    areas = sorted(p for p in base.glob("Area_*") if p.is_dir())
    if areas and release.held_out not in [area.name for area in areas]:
        found.notes.append(f"the held-out area {release.held_out} is not in the release: there is no val split")
    for area in areas:
        split = "val" if area.name == release.held_out else "train"
        if wanted and split not in wanted:
            continue
        for room in sorted(p for p in area.iterdir() if p.is_dir() and not p.name.startswith(".")):
            scene_id = check_name(f"{area.name}_{room.name}", f"{room}: scene id")
            files = [*_object_files(room), *([_alignment_file(room)] if release.align else [])]
            found.scenes.append(SceneSource(scene_id, split, room, tuple(files)))
    return found


def read_s3dis(source: SceneSource, root: Path, release: S3disRelease, label_spaces: list[str]) -> RawScene:
    """One room. Raises SceneError, one line with file and line, where a number is missing or is none."""
    if label_spaces != ["s3dis13"]:
        fail(source.path, f"S3DIS has labels in s3dis13, not in {', '.join(label_spaces)}")
    files = _object_files(source.path)
    if not files:
        fail(source.path, "has no Annotations/*.txt")
    tables: list[NDArray[np.float64]] = []
    classes: list[int] = []
    notes: list[str] = []
    for file in files:
        table, repaired = read_object(file)
        notes += [f"{file.name} line {line}: control character read as {what}" for line, what in repaired]
        kind = file.stem.rpartition("_")[0]
        if kind not in S3DIS13:
            notes.append(f"{file.name}: class {kind!r} is none of the thirteen; read as clutter")
        tables.append(table)
        classes.append(S3DIS13.index(kind if kind in S3DIS13 else "clutter"))
    points = np.concatenate(tables)
    counts = [len(table) for table in tables]
    coord = points[:, :3]
    if release.align:
        coord = turned(coord, -_angle(source.path))
    truth = Annotations(
        {"s3dis13": np.repeat(np.array(classes, np.int16), counts)},
        np.repeat(np.arange(len(files), dtype=np.int32), counts),
        np.ones(len(points), np.bool_),
    )
    color = np.rint(points[:, 3:]).astype(np.uint8)
    return RawScene(LabelledPoints(coord.astype(np.float32), color, None, truth), notes=tuple(notes))


def read_object(file: Path) -> tuple[NDArray[np.float64], list[tuple[int, str]]]:
    """Points [M, 6] of one text file (x, y, z, r, g, b), and which lines were repaired, with what.

    Raises SceneError, one line with file and line number.
    """
    data = file.read_bytes()
    repaired: list[tuple[int, str]] = []
    if _STRAY.search(data):
        lines = data.split(b"\n")
        for i, line in enumerate(lines):
            if _STRAY.search(line):
                lines[i], what = _repair(file, i + 1, line)
                repaired.append((i + 1, what))
        data = b"\n".join(lines)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # loadtxt only warns about an empty file
            table = np.loadtxt(io.BytesIO(data), np.float64, comments=None, ndmin=2)
    except (ValueError, UserWarning):
        table = None
    if table is None or table.shape[1] != 6:
        _blame(file, data)
    check_finite(file, points=table)
    if table[:, 3:].min() < 0 or table[:, 3:].max() > 255:
        row = int(np.argmax((table[:, 3:] < 0).any(1) | (table[:, 3:] > 255).any(1)))
        fail(file, f"the colour of point {row} is {table[row, 3:].tolist()}, not within 0 to 255")
    return table, repaired


def turned(coord: NDArray[np.float64], degrees: float) -> NDArray[np.float64]:
    """Points [M, 3] turned about the vertical axis through the middle of their bounding box."""
    middle = (coord.min(0) + coord.max(0)) / 2
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (coord - middle) @ np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]]) + middle


def _repair(file: Path, number: int, line: bytes) -> tuple[bytes, str]:
    for what, name in ((b" ", "a space"), (b"0", "a 0")):
        fixed = _STRAY.sub(what, line)
        if _numbers(fixed) == 6 and len(_STRAY.findall(line)) == 1:
            return fixed, name
    fail(file, f"line {number} holds stray bytes and is no point: {line[:60]!r}")


def _numbers(line: bytes) -> int:
    """How many numbers a line holds; -1 if a word is none."""
    try:
        return len([float(word) for word in line.split()])
    except ValueError:
        return -1


def _blame(file: Path, data: bytes) -> NoReturn:
    """Name the line that is no point."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip() and _numbers(line) != 6:
            fail(file, f"line {number} is no point (x y z r g b): {line[:60].decode('ascii', 'replace')!r}")
    fail(file, "holds no points")


def _object_files(room: Path) -> list[Path]:
    return sorted(p for p in (room / "Annotations").glob("*.txt") if not p.name.startswith("."))


def _alignment_file(room: Path) -> Path:
    return room.parent / f"{room.parent.name}_alignmentAngle.txt"


def _angle(room: Path) -> float:
    file = _alignment_file(room)
    if not file.is_file():
        fail(file, "no such file; needed to align rooms (release.align=false leaves them as they are)")
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == room.name:
            try:
                return float(words[1])
            except ValueError:
                break
    fail(file, f"has no angle for {room.name}")
