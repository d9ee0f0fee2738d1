"""Niantic's .spz, written (layout: spz.py), and a user's own .spz with further columns."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.harmonics import sh_degree
from chorus_common.runtime.atomic import write_bytes_atomically
from chorus_common.scene import SH_C0, GaussianScene, RenderMode
from chorus_common.scene_io.axes import to_rdf, turned_columns
from chorus_common.scene_io.bounds import MAX_GAUSSIANS, fail
from chorus_common.scene_io.spz import COLUMNS_RECORD, read_records, read_spz_header

#: Version 3 (one gzip stream) is read by every program that reads .spz; version 4 only by the newest.
VERSION = 3
#: Bits of positions behind the point: a quarter of a millimetre, as Niantic's own writer; fewer where a scene is too
#: large for 24 bits.
_FRACTIONAL_BITS = 12
#: Bits kept of harmonics of degree 1 and of the higher ones, as Niantic's own writer: more would only cost space.
_SH_BITS = (5, 4)


def write_spz(scene: GaussianScene, path: str | Path) -> Path:
    """Write `scene` (with its harmonics) as .spz version 3, rows in their order."""
    path = Path(path)
    columns: dict[str, Any] = {"means": scene.means, "quats": scene.quats, "scales": scene.scales}
    if scene.harmonics is not None:
        columns["harmonics"] = scene.harmonics
    columns = turned_columns(columns, to_rdf("RUB").T)
    reach = float(np.abs(columns["means"]).max(initial=0))
    bits = min(_FRACTIONAL_BITS, int(np.floor(np.log2((2**23 - 1) / max(reach, 1e-6)))))
    if bits < 0:
        fail(path, f"reaches {reach:.3g} m, more than .spz can hold; leave the outliers out first")
    degree = 0 if scene.harmonics is None else sh_degree(scene.harmonics.shape[1])
    fixed = np.rint(columns["means"].astype(np.float64) * (1 << bits)).astype("<i4")
    f_dc = (scene.colors.astype(np.float64) - 0.5) / SH_C0
    streams = [
        fixed.reshape(-1, 1).view(np.uint8)[:, :3], _byte(scene.opacities * 255.0), _byte((f_dc * 0.15 + 0.5) * 255),
        _byte((np.log(columns["scales"].astype(np.float64)) + 10) * 16), _smallest_three(columns["quats"]),
    ]  # fmt: skip
    if degree:
        streams.append(_coarse(columns["harmonics"]))
    flags = 1 if scene.render_mode in (RenderMode.ANTIALIASED, RenderMode.MIP) else 0
    header = struct.pack("<4sIIBBBB", b"NGSP", VERSION, len(scene), degree, bits, flags, 0)
    body = b"".join(np.ascontiguousarray(stream).tobytes() for stream in streams)
    write_bytes_atomically(path, gzip.compress(header + body, mtime=0))
    return path


def _byte(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _coarse(harmonics: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Bytes around 128, rounded to few bits so that they compress; [N, K, 3]."""
    plain = np.rint(harmonics.astype(np.float64) * 128) + 128
    step = np.where(np.arange(harmonics.shape[1]) < 3, 1 << (8 - _SH_BITS[0]), 1 << (8 - _SH_BITS[1]))[:, None]
    return np.clip(np.floor((plain + step / 2) / step) * step, 0, 255).astype(np.uint8)


def _smallest_three(quats: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Quaternions [N, 4] (w, x, y, z), packed: 2 bits for the largest of x, y, z, w, then 3 x (sign, 9 bits)."""
    xyzw = quats[:, [1, 2, 3, 0]].astype(np.float64)
    largest = np.abs(xyzw).argmax(1)
    rows = np.arange(len(xyzw))
    negative = (xyzw < 0) != (xyzw[rows, largest] < 0)[:, None]
    magnitude = np.minimum(np.rint(np.abs(xyzw) * np.sqrt(2) * 511), 511).astype(np.uint32)
    packed = largest.astype(np.uint32)
    for component in range(4):
        field = (negative[:, component].astype(np.uint32) << 9) | magnitude[:, component]
        packed = np.where(largest == component, packed, (packed << 10) | field)
    return packed.astype("<u4")


def rewrite_spz(source: Path, out: Path, columns: Mapping[str, NDArray[Any]]) -> Path:
    """Write `source` to `out` with `columns` (name -> [N]) as an extension record, which other readers skip.

    The attributes and the other records stay as they are, byte for byte (in the older versions inside a gzip stream
    that is packed anew).
    """
    header = read_spz_header(source)
    record = _columns_record(columns)
    data = source.read_bytes()
    if header.version < 4:
        inflater = zlib.decompressobj(wbits=31)
        plain = bytearray(inflater.decompress(data, 16 + sum(header.sizes().values()) + 64 * header.count + (1 << 20)))
        plain[14] |= 2
        body = bytes(plain[: 16 + sum(header.sizes().values())])
        old = bytes(plain[len(body) :])
        write_bytes_atomically(out, gzip.compress(body + _without_columns(old) + record, mtime=0))
        return out
    old = data[32 : header.toc_offset] if header.extended else b""
    records = _without_columns(old) + record
    head = bytearray(data[:32])
    head[14] |= 2
    head[16:20] = struct.pack("<I", 32 + len(records))
    write_bytes_atomically(out, bytes(head) + records + data[header.toc_offset :])
    return out


def spz_columns(path: Path, *, max_gaussians: int = MAX_GAUSSIANS) -> dict[str, NDArray[Any]]:
    """The columns that `rewrite_spz` put into `path`, by name; empty where there are none."""
    header = read_spz_header(path)
    if header.count > max_gaussians or not header.extended:
        return {}
    for kind, payload in read_records(path, header):
        if kind == COLUMNS_RECORD:
            return _unpacked(path, payload, header.count)
    return {}


def _columns_record(columns: Mapping[str, NDArray[Any]]) -> bytes:
    """type, length, then a zlib stream of: length of a JSON list of [name, type], the list, the columns in order."""
    arrays = {
        name: np.ascontiguousarray(values, "<i4" if np.asarray(values).dtype.kind in "iub" else "<f4")
        for name, values in columns.items()
    }
    names = json.dumps([[name, array.dtype.str] for name, array in arrays.items()]).encode()
    plain = struct.pack("<I", len(names)) + names + b"".join(array.tobytes() for array in arrays.values())
    payload = zlib.compress(plain, 6)
    return struct.pack("<II", COLUMNS_RECORD, len(payload)) + payload


def _unpacked(path: Path, payload: bytes, count: int) -> dict[str, NDArray[Any]]:
    try:
        plain = zlib.decompressobj().decompress(payload, (1 << 16) + 64 * count)
        (length,) = struct.unpack_from("<I", plain)
        entries = json.loads(plain[4 : 4 + length])
        found: dict[str, NDArray[Any]] = {}
        at = 4 + length
        for name, kind in entries:
            if kind not in ("<i4", "<f4"):
                raise ValueError(kind)
            found[str(name)] = np.frombuffer(plain, kind, count, at).copy()
            at += 4 * count
    except (zlib.error, struct.error, ValueError, TypeError, RecursionError) as error:
        fail(path, f"its columns are damaged: {' '.join(str(error).split())[:80]}")
    return found


def _without_columns(records: bytes) -> bytes:
    """`records` less an earlier record of columns."""
    out, at = b"", 0
    while at + 8 <= len(records):
        kind, length = struct.unpack_from("<II", records, at)
        if kind != COLUMNS_RECORD:
            out += records[at : at + 8 + length]
        at += 8 + length
    return out
