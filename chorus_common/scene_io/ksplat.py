"""GaussianSplats3D's .ksplat: sections of rows, positions counted from the centres of buckets.

Layout (mkkellogg/GaussianSplats3D src/loaders/SplatBuffer.js, version 0.1): a header of 4096 bytes, 1024 bytes for each
of the sections that it makes room for, then per section the lengths of its partly filled buckets, the centres of all
buckets, and the rows. Compression 0 holds 32-bit floats; 1 and 2 hold 16-bit positions in their bucket and half floats;
colour and opacity are bytes; harmonics (degrees 0 to 2, band by band, channel by channel) are floats, half floats or,
at compression 2, bytes over the range that the header gives. Axes are those of .ply, rotations (w, x, y, z).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.harmonics import SH_SIZES
from chorus_common.scene import GaussianScene
from chorus_common.scene_io.bounds import MAX_GAUSSIANS, check_count, check_fits, fail, finish, scene_name

F32 = NDArray[np.float32]

_HEADER, _SECTION = 4096, 1024
_MAX_SECTIONS = 4096
#: compression -> type of positions, of scales and rotations, of harmonics
_TYPES = {0: ("<f4", "<f4", "<f4"), 1: ("<u2", "<f2", "<f2"), 2: ("<u2", "<f2", "u1")}


@dataclass(frozen=True)
class KsplatHeader:
    """What the file's header says; sh_range: what bytes 0 and 255 of harmonics stand for."""

    max_sections: int
    count: int
    compression: int
    sh_range: tuple[float, float]


@dataclass(frozen=True)
class _Section:
    """One section: rows [count] of dtype `row` in room for `room`, buckets of `bucket_size` rows."""

    count: int
    room: int
    bucket_size: int
    buckets: int
    block: float
    storage: int
    steps: int
    full: int
    partial: int
    degree: int


def read_ksplat_header(path: Path) -> KsplatHeader:
    """The header alone. Raises SceneError for versions and values that no file has."""
    with open(path, "rb") as handle:
        head = handle.read(_HEADER)
    if len(head) < _HEADER:
        fail(path, f"has {len(head)} bytes, fewer than the header of a .ksplat file; truncated?")
    major, minor = head[0], head[1]
    if (major, minor) < (0, 1) or major > 0:
        fail(path, f"has .ksplat version {major}.{minor}; version 0.1 can be read")
    sections, _, _, count = struct.unpack_from("<4I", head, 4)
    (compression,) = struct.unpack_from("<H", head, 20)
    low, high = struct.unpack_from("<2f", head, 36)
    if compression not in _TYPES or sections > _MAX_SECTIONS:
        fail(path, f"header is damaged (compression {compression}, {sections} sections)")
    if not (np.isfinite([low, high]).all() and abs(low) < 1e6 and abs(high) < 1e6):
        fail(path, f"header is damaged (harmonics from {low} to {high})")
    return KsplatHeader(sections, count, compression, (low or -1.5, high or 1.5))


def read_ksplat(
    path: Path, *, max_gaussians: int = MAX_GAUSSIANS, label_space: str = "", harmonics: bool = False
) -> GaussianScene:
    """Read the Gaussians of `path`."""
    header = read_ksplat_header(path)
    check_count(path, header.count, max_gaussians)
    size = path.stat().st_size
    at = _HEADER + _SECTION * header.max_sections
    check_fits(path, header.max_sections, _SECTION, size - _HEADER, "table of sections")
    parts: list[dict[str, Any]] = []
    with open(path, "rb") as handle:
        for number in range(header.max_sections):
            handle.seek(_HEADER + _SECTION * number)
            section = _section(path, number, handle.read(_SECTION))
            dtype = _row_type(header.compression, section.degree)
            before = 4 * section.partial + section.storage * section.buckets
            check_fits(path, 1, before, size - at, f"buckets of section {number}")
            check_fits(path, section.room, dtype.itemsize, size - at - before, f"section {number}")
            if section.count:
                handle.seek(at)
                lengths = np.frombuffer(handle.read(4 * section.partial), "<u4")
                centres = np.frombuffer(handle.read(section.storage * section.buckets), np.uint8)
                rows = np.memmap(path, dtype, "r", at + before, (section.count,))
                parts.append(_decoded(path, header, section, lengths, centres, rows, harmonics))
            at += before + section.room * dtype.itemsize
    if (found := sum(len(part["means"]) for part in parts)) != header.count:
        fail(path, f"declares {header.count} Gaussians but its sections hold {found}")
    columns = joined_columns(parts)
    return finish(path, **columns, name=scene_name(path), label_space=label_space)


def joined_columns(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Columns of several tables one after the other; harmonics of lower degrees are filled up with zeros."""
    widest = max((part["harmonics"].shape[1] for part in parts if "harmonics" in part), default=0)
    for part in parts:
        if widest:
            rest = part.get("harmonics", np.zeros((len(part["means"]), 0, 3), np.float32))
            part["harmonics"] = np.pad(rest, ((0, 0), (0, widest - rest.shape[1]), (0, 0)))
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _section(path: Path, number: int, raw: bytes) -> _Section:
    count, room, bucket_size, buckets = struct.unpack_from("<4I", raw, 0)
    (block,) = struct.unpack_from("<f", raw, 16)
    (storage,) = struct.unpack_from("<H", raw, 20)
    (steps,) = struct.unpack_from("<I", raw, 24)
    full, partial = struct.unpack_from("<2I", raw, 32)
    (degree,) = struct.unpack_from("<H", raw, 40)
    section = _Section(count, room, bucket_size, buckets, block, storage, steps or 32767, full, partial, degree)
    bad = count > room or degree > 3 or not np.isfinite(block) or (full + partial > max(buckets, 0) and count > 0)
    if bad or (buckets and storage < 12) or partial > buckets:
        fail(path, f"section {number} is damaged ({count} of {room} rows, {full} + {partial} of {buckets} buckets)")
    return section


def _row_type(compression: int, degree: int) -> np.dtype[Any]:
    position, half, coefficient = _TYPES[compression]
    return np.dtype(
        [("position", position, 3), ("scale", half, 3), ("rotation", half, 4), ("color", "u1", 4),
         ("sh", coefficient, (3 * SH_SIZES[degree],))]
    )  # fmt: skip


def _decoded(
    path: Path,
    header: KsplatHeader,
    section: _Section,
    lengths: NDArray[np.uint32],
    centres: NDArray[np.uint8],
    rows: NDArray[Any],
    harmonics: bool,
) -> dict[str, Any]:
    """Columns of one section."""
    positions = np.asarray(rows["position"], np.float32)
    if header.compression > 0:
        table = centres.reshape(section.buckets, section.storage)[:, :12].copy().view("<f4")  # [buckets, 3]
        bucket = _buckets(path, section, lengths)
        positions = (positions - section.steps) * np.float32(section.block / 2 / section.steps) + table[bucket]
    color = rows["color"].astype(np.float32) / 255
    columns: dict[str, Any] = {
        "means": positions,
        "scales": np.asarray(rows["scale"], np.float32),
        "quats": np.asarray(rows["rotation"], np.float32),
        "opacities": color[:, 3],
        "colors": color[:, :3],
    }
    if harmonics and section.degree:
        values = np.asarray(rows["sh"], np.float32)
        if header.compression == 2:
            low, high = header.sh_range
            values = np.float32(low) + values * np.float32((high - low) / 255)
        bands, start = [], 0
        for band in range(1, section.degree + 1):
            width = 2 * band + 1
            bands.append(values[:, start : start + 3 * width].reshape(-1, 3, width).transpose(0, 2, 1))  # [n, width, 3]
            start += 3 * width
        columns["harmonics"] = np.concatenate(bands, axis=1)
    return columns


def _buckets(path: Path, section: _Section, lengths: NDArray[np.uint32]) -> NDArray[np.int64]:
    """The bucket of every row: full ones first, then the partly filled ones."""
    if section.full and not section.bucket_size:
        fail(path, "has full buckets of no size; damaged?")
    if section.full * section.bucket_size > section.count:
        fail(path, f"has {section.full} full buckets of {section.bucket_size} for {section.count} rows")
    counts = np.concatenate([np.full(section.full, section.bucket_size, np.int64), lengths.astype(np.int64)])
    ends = np.cumsum(counts)
    if not len(ends) or ends[-1] < section.count:
        fail(path, f"has buckets for {int(ends[-1]) if len(ends) else 0} of {section.count} rows")
    return np.searchsorted(ends, np.arange(section.count), side="right")
