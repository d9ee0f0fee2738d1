"""Niantic's .spz, versions 1 to 4.

Layout (nianticlabs/spz README and src/cc/load-spz.cc). Versions 1-3: one gzip stream of a 16-byte header and the
attributes one after the other: positions, alphas, colours, scales, rotations, harmonics. Version 4: a plain 32-byte
header ("NGSP"), optional extension records, a table of (compressed, uncompressed) sizes and one zstd stream per
non-empty attribute in the same order.

    positions  24-bit signed fixed point x3 (version 1: half floats)      alphas  u8 / 255
    colours    u8: f_dc = (c / 255 - 0.5) / 0.15                            scales  u8: log metres = s / 16 - 10
    rotations  versions 3, 4: 2 bits "which of x, y, z, w is largest", 3 x (sign, 9 bits) over 1/sqrt(2);
               versions 1, 2: x, y, z as u8 / 127.5 - 1, w >= 0

    harmonics  u8: (h - 128) / 128, coefficient by coefficient, its three channels together

Files are stored in RUB axes (x right, y up, z back), .ply in RDF: y and z change sign, so that a scene reads the same
from either. An extension record may declare other axes (SPZ_ADOBE_coordinate_system, nianticlabs/spz
extensions/README.md). Records (u32 type, u32 length, payload) stand before the table of streams in version 4, after the
attributes in the older ones; bit 1 of the flags says that there are any, bit 0 that training was antialiased.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chorus_common.harmonics import SH_SIZES
from chorus_common.scene import SH_C0, GaussianScene, RenderMode
from chorus_common.scene_io.axes import to_rdf, turned_columns
from chorus_common.scene_io.bounds import MAX_GAUSSIANS, check_count, fail, finish, scene_name
from chorus_common.scene_io.compressed_ply import largest_restored

_MAGIC = 0x5053474E  # "NGSP"

#: Number that SPZ_ADOBE_coordinate_system declares -> axes (include/spz/splat-types.h); 0 leaves them unspecified.
_AXES = (
    "RUB", "LDB", "RDB", "LUB", "RUB", "LDF", "RDF", "LUF", "RUF",
    "LBD", "RBD", "LBU", "RBU", "LFD", "RFD", "LFU", "RFU",
)  # fmt: skip
_COORDINATE_SYSTEM = 0xADBE0003
#: Our own record: further columns of the Gaussians (spz_write.py).
COLUMNS_RECORD = 0xC4050001

#: deflate cannot shrink more than 1032:1 (zlib's own bound); zstd can, so the reference's limit is used for both.
_MAX_RATIO = 1032


@dataclass(frozen=True)
class SpzHeader:
    """What both header layouts say."""

    version: int
    count: int
    sh_degree: int
    fractional_bits: int
    flags: int = 0
    n_streams: int = 0
    toc_offset: int = 0

    @property
    def antialiased(self) -> bool:
        """Whether the Gaussians were trained with antialiasing."""
        return bool(self.flags & 1)

    @property
    def extended(self) -> bool:
        """Whether extension records are there."""
        return bool(self.flags & 2)

    def sizes(self) -> dict[str, int]:
        """Bytes of each attribute, in stream order."""
        n = self.count
        return {
            "positions": n * (6 if self.version == 1 else 9), "alphas": n, "colors": n * 3, "scales": n * 3,
            "rotations": n * (4 if self.version >= 3 else 3), "sh": n * 3 * SH_SIZES[self.sh_degree],
        }  # fmt: skip

    def record_room(self) -> int:
        """Bytes of extension records that are looked at: some for each Gaussian, and room for those about the file."""
        return (1 << 20) + 64 * self.count


def read_spz_header(path: Path) -> SpzHeader:
    """The header alone; a gzip stream is inflated for 16 bytes and no further."""
    with open(path, "rb") as handle:
        head = handle.read(4096)
    if head[:4] == b"NGSP":
        if len(head) < 32:
            fail(path, "ends inside its header; truncated?")
        _, version, count, degree, bits, flags, n_streams, toc = struct.unpack("<IIIBBBBI", head[:20])
        header = SpzHeader(version, count, degree, bits, flags, n_streams, toc)
        expected: tuple[int, ...] = (4,)
    elif head[:2] == b"\x1f\x8b":
        try:
            plain = zlib.decompressobj(wbits=31).decompress(head, 16)
        except zlib.error as error:
            fail(path, f"gzip stream is damaged: {error}")
        if len(plain) < 16:
            fail(path, "ends inside its header; truncated?")
        magic, version, count, degree, bits, flags, _ = struct.unpack("<IIIBBBB", plain)
        if magic != _MAGIC:
            fail(path, "is a gzip file but not an .spz scene")
        header = SpzHeader(version, count, degree, bits, flags)
        expected = (1, 2, 3)
    else:
        fail(path, "is not an .spz scene (neither NGSP nor gzip)")
    if header.version not in expected:
        fail(path, f"has .spz version {header.version}; versions 1 to 4 can be read")
    if header.sh_degree not in SH_SIZES or header.fractional_bits > 24:
        fail(path, f"header is damaged (degree {header.sh_degree}, {header.fractional_bits} fractional bits)")
    return header


def read_spz(
    path: Path, *, max_gaussians: int = MAX_GAUSSIANS, label_space: str = "", harmonics: bool = False
) -> GaussianScene:
    """Read the Gaussians of `path`, turned from the axes that it declares to those of .ply files."""
    header = read_spz_header(path)
    check_count(path, header.count, max_gaussians)
    size = path.stat().st_size
    if sum(header.sizes().values()) > size * _MAX_RATIO:
        fail(path, f"declares {header.count} Gaussians, more than its {size} bytes can hold; truncated?")
    inflate = _inflate_gzip if header.version < 4 else _inflate_streams
    raw, records = inflate(path, header, size, harmonics)
    positions = _positions(raw["positions"], header)
    quats = _quats_smallest_three(raw["rotations"]) if header.version >= 3 else _quats_first_three(raw["rotations"])
    f_dc = (raw["colors"].astype(np.float32).reshape(-1, 3) / 255.0 - 0.5) / 0.15  # [N, 3]
    columns: dict[str, Any] = {"means": positions, "quats": quats}
    columns["scales"] = np.exp(raw["scales"].astype(np.float32).reshape(-1, 3) / 16.0 - 10.0)
    if "sh" in raw:
        plain = raw["sh"].astype(np.float32).reshape(header.count, -1, 3)  # [N, K, 3]
        columns["harmonics"] = (plain - 128) / np.float32(128)
    return finish(
        path,
        **turned_columns(columns, to_rdf(_declared_axes(path, records))),
        opacities=raw["alphas"].astype(np.float32) / 255.0,
        colors=f_dc * np.float32(SH_C0) + np.float32(0.5),
        name=scene_name(path),
        label_space=label_space,
        render_mode=RenderMode.ANTIALIASED if header.antialiased else RenderMode.CLASSIC,
    )


def parsed_records(path: Path, records: bytes) -> list[tuple[int, bytes]]:
    """(type, payload) of each extension record. Raises SceneError where one runs over the end."""
    found, at = [], 0
    while at + 8 <= len(records):
        kind, length = struct.unpack_from("<II", records, at)
        at += 8
        if length > len(records) - at:
            fail(path, f"extension record {kind:#x} declares {length} bytes, {len(records) - at} are there; truncated?")
        found.append((kind, records[at : at + length]))
        at += length
    return found


def read_records(path: Path, header: SpzHeader) -> list[tuple[int, bytes]]:
    """The extension records of `path`; the attributes are passed over."""
    inflate = _inflate_gzip if header.version < 4 else _inflate_streams
    return parsed_records(path, inflate(path, header, path.stat().st_size, False)[1])


def _declared_axes(path: Path, records: bytes) -> str:
    """Axes of the file: those that its records declare, else .spz's own."""
    for kind, payload in parsed_records(path, records):
        if kind == _COORDINATE_SYSTEM:
            value = int.from_bytes(payload, "little") if len(payload) == 4 else len(_AXES)
            if value >= len(_AXES):
                fail(path, f"declares axes number {value}, which .spz does not define")
            return _AXES[value]
    return _AXES[0]


def _inflate_gzip(
    path: Path, header: SpzHeader, size: int, harmonics: bool
) -> tuple[dict[str, NDArray[np.uint8]], bytes]:
    """Attributes, and the extension records after them."""
    sizes = header.sizes()
    sh = sizes["sh"]
    if not harmonics:
        del sizes["sh"]  # harmonics come last: skipped, or never inflated
    wanted = 16 + sum(sizes.values())
    skipped = 0 if harmonics or not header.extended else sh
    inflater, plain = zlib.decompressobj(wbits=31), bytearray()
    with open(path, "rb") as handle:
        try:
            while len(plain) < wanted and (block := handle.read(1 << 20)):
                plain += inflater.decompress(block, wanted - len(plain))
            records = bytearray()
            while header.extended and len(plain) == wanted and len(records) < header.record_room():
                pending = inflater.unconsumed_tail or handle.read(1 << 20)
                if not pending or inflater.eof:
                    break
                block = inflater.decompress(pending, 1 << 20)
                skipped, block = skipped - min(skipped, len(block)), block[skipped:]
                records += block
        except zlib.error as error:
            fail(path, f"gzip stream is damaged: {error}")
    if len(plain) < wanted:
        fail(path, f"declares {header.count} Gaussians but holds {len(plain)} of {wanted} bytes; truncated?")
    whole, raw, at = np.frombuffer(plain, np.uint8), {}, 16
    for key, size in sizes.items():
        raw[key] = whole[at : at + size]
        at += size
    return {key: value for key, value in raw.items() if value.size}, bytes(records[: header.record_room()])


def _inflate_streams(
    path: Path, header: SpzHeader, size: int, harmonics: bool
) -> tuple[dict[str, NDArray[np.uint8]], bytes]:
    """Attributes, and the extension records before the table of streams."""
    sizes = {key: n for key, n in header.sizes().items() if n}
    if header.n_streams != len(sizes):
        fail(path, f"has {header.n_streams} streams, expected {len(sizes)}")
    at = header.toc_offset + 16 * header.n_streams
    if header.toc_offset < 32 or at > size:
        fail(path, "ends inside its table of streams; truncated?")
    with open(path, "rb") as handle:
        handle.seek(32)
        records = handle.read(min(header.toc_offset - 32, header.record_room())) if header.extended else b""
        handle.seek(header.toc_offset)
        toc = struct.unpack(f"<{2 * header.n_streams}Q", handle.read(16 * header.n_streams))
        raw: dict[str, NDArray[np.uint8]] = {}
        for (key, wanted), packed, plain in zip(sizes.items(), toc[::2], toc[1::2]):
            if plain != wanted or packed > size - at:
                fail(
                    path,
                    f"stream of {key} declares {packed} -> {plain} bytes, expected {size - at} -> {wanted}; truncated?",
                )
            at += packed
            if key == "sh" and not harmonics:
                continue
            try:
                # pyarrow's decompressor writes into a buffer of the size asked for and fails if the stream holds more
                buffer = pa.decompress(handle.read(packed), decompressed_size=wanted, codec="zstd", asbytes=False)
            except (OSError, pa.ArrowException) as error:
                fail(path, f"zstd stream of {key} is damaged: {error}")
            if buffer.size != wanted:
                fail(path, f"zstd stream of {key} holds {buffer.size} bytes, expected {wanted}")
            raw[key] = np.frombuffer(buffer, np.uint8)
    return raw, records


def _positions(raw: NDArray[np.uint8], header: SpzHeader) -> NDArray[np.float32]:
    if header.version == 1:
        return raw.view("<f2").astype(np.float32).reshape(-1, 3)  # [N, 3]
    low = raw.reshape(-1, 3).astype(np.int32)  # [3N, 3] bytes, little end first
    fixed = low[:, 0] | (low[:, 1] << 8) | (low[:, 2] << 16)
    fixed -= (fixed & 0x800000) << 1  # sign of a 24-bit number
    return (fixed.astype(np.float64) / (1 << header.fractional_bits)).astype(np.float32).reshape(-1, 3)  # [N, 3]


def _quats_first_three(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    xyz = raw.reshape(-1, 3).astype(np.float32) / 127.5 - 1.0  # [N, 3]
    w = np.sqrt(np.maximum(0.0, 1.0 - (xyz * xyz).sum(1)))
    return np.column_stack([w, xyz])


def _quats_smallest_three(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    packed = np.ascontiguousarray(raw).view("<u4")
    fields = np.stack([(packed >> shift) & 0x3FF for shift in (20, 10, 0)], axis=1)  # [N, 3]: sign bit, 9 bits
    magnitude = (fields & 0x1FF).astype(np.float32) * np.float32(np.sqrt(0.5) / 511)
    small = np.where(fields & 0x200, -magnitude, magnitude)
    xyzw = largest_restored(small.astype(np.float32), (packed >> 30).astype(np.int64))
    return xyzw[:, [3, 0, 1, 2]]
