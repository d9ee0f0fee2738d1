"""A bounded PLY reader: header first, then one table per element, each proved to fit the file before it is touched.

General readers allocate what a header asks for (plyfile issue 90: a hundred bytes drive gigabytes) or lump all
elements into one stride (extra elements after `vertex` then shift every value). Here elements are parsed one by one,
rows are memory-mapped, and only fixed-size scalar properties are read. Lists (mesh faces) are tolerated in elements
that come after all the wanted ones. Format: Greg Turk, "The PLY Polygon File Format", 1994.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.scene_io.bounds import check_fits, fail

#: Feature fields write several hundred properties (feature-3dgs: 512 semantic ones); no file needs more than this.
_MAX_HEADER_BYTES, _MAX_HEADER_LINES = 1 << 20, 16384

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8",
}  # fmt: skip

_FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}

#: Rows gathered at a time: a block of an INRIA file (248 bytes a row) stays in the cache while its columns are picked.
_BLOCK = 16384


@dataclass(frozen=True)
class PlyElement:
    """One `element` of a header.

    `properties`: name -> numpy type code without byte order; `has_list` forbids reading it.
    """

    name: str
    count: int
    properties: dict[str, str]
    has_list: bool = False


@dataclass(frozen=True)
class PlyHeader:
    """A parsed header: byte order ("" = ascii), elements in file order, the offset of the first byte after it, and the
    text of its comments.
    """

    order: str
    elements: tuple[PlyElement, ...]
    size: int
    comments: tuple[str, ...] = ()

    def element(self, name: str) -> PlyElement | None:
        """The element called `name`, or None."""
        return next((element for element in self.elements if element.name == name), None)


def read_ply_header(path: Path) -> PlyHeader:
    """Parse the header of `path`; at most 1 MB and 16384 lines are looked at. LF, CRLF and CR line ends."""
    with open(path, "rb") as handle:
        head = handle.read(_MAX_HEADER_BYTES)
    if head[:3] != b"ply" or head[3:4] not in (b"\n", b"\r"):
        fail(path, "does not start with 'ply'")
    newline = b"\r\n" if head[3:5] == b"\r\n" else head[3:4]
    end = head.find(newline + b"end_header")
    if end < 0:
        fail(path, f"PLY header does not end within {_MAX_HEADER_BYTES} bytes")
    size = end + len(newline) + len(b"end_header")
    if head[size : size + len(newline)] != newline:
        fail(path, "PLY header does not end with a line break")
    size += len(newline)
    lines = head[:end].split(newline)[1:]
    if len(lines) > _MAX_HEADER_LINES:
        fail(path, f"PLY header has more than {_MAX_HEADER_LINES} lines")
    return _parse_lines(path, [line.decode("latin1").split() for line in lines], size)


def _parse_lines(path: Path, lines: list[list[str]], size: int) -> PlyHeader:
    order: str | None = None
    elements: list[PlyElement] = []
    comments: list[str] = []
    for row, words in enumerate(lines, start=2):
        match words:
            case ["comment", *text]:
                comments.append(" ".join(text))
            case [] | ["obj_info", *_]:
                continue
            case ["format", kind, "1.0"] if kind in _FORMATS and order is None:
                order = _FORMATS[kind]
            case ["element", name, count] if count.isascii() and count.isdigit() and len(count) <= 18:
                if any(element.name == name for element in elements):
                    fail(path, f"PLY header declares element {name} twice")
                elements.append(PlyElement(name, int(count), {}))
            case ["property", "list", a, b, _] if a in _TYPES and b in _TYPES and elements:
                last = elements[-1]
                elements[-1] = PlyElement(last.name, last.count, last.properties, has_list=True)
            case ["property", kind, name] if kind in _TYPES and elements:
                if name in elements[-1].properties:
                    fail(path, f"PLY header declares property {name} twice")
                elements[-1].properties[name] = _TYPES[kind]
            case _:
                fail(path, f"PLY header line {row} is not understood: {' '.join(words)[:80]!r}")
    if order is None:
        fail(path, "PLY header has no format line")
    return PlyHeader(order, tuple(elements), size, tuple(comments))


def read_ply_element(path: Path, header: PlyHeader, name: str) -> NDArray[Any]:
    """The rows of element `name` as a structured array [count]: memory-mapped if binary, parsed (as f64) if ascii."""
    offset, rows_before = header.size, 0
    size = path.stat().st_size
    for element in header.elements:
        if element.has_list:
            fail(
                path,
                f"element {element.name} with lists stands before or at {name}; only fixed-size rows can be read there",
            )
        if not element.properties:
            fail(path, f"element {element.name} has no properties")
        # two bytes (a digit and a separator) are the least that an ascii value takes, but for the last one of the file
        stride = np.dtype(_dtype(element, header.order)).itemsize if header.order else 2 * len(element.properties)
        check_fits(path, element.count, stride, size - offset + (0 if header.order else 1), f"element {element.name}")
        if element.name == name:
            if element.count == 0:
                return np.empty(0, _dtype(element, header.order or "<"))
            if header.order:
                return np.memmap(path, _dtype(element, header.order), "r", offset, (element.count,))
            return _read_ascii(path, header, element, rows_before)
        offset += element.count * stride if header.order else 0
        rows_before += element.count
    fail(path, f"has no element {name}")


def columns(table: NDArray[Any], names: Sequence[str], dtype: type[np.generic] = np.float32) -> NDArray[Any]:
    """The named fields of a structured table as one array [N, len(names)], gathered block by block."""
    out = np.empty((len(table), len(names)), dtype)
    for start in range(0, len(table), _BLOCK):
        block = table[start : start + _BLOCK]
        for column, name in enumerate(names):
            out[start : start + _BLOCK, column] = block[name]
    return out


def numbered(properties: Iterable[str], prefix: str) -> list[str]:
    """The properties `prefix0`, `prefix1`, ... in numerical order (f_rest_10 comes after f_rest_9)."""
    found = [name for name in properties if name.startswith(prefix) and name[len(prefix) :].isdigit()]
    return sorted(found, key=lambda name: int(name[len(prefix) :]))


def _dtype(element: PlyElement, order: str) -> np.dtype[Any]:
    return np.dtype([(name, order + code) for name, code in element.properties.items()])


def _read_ascii(path: Path, header: PlyHeader, element: PlyElement, rows_before: int) -> NDArray[Any]:
    width = len(element.properties)
    with open(path, "rb") as handle:
        handle.seek(header.size)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # loadtxt only warns about an empty file
                values = np.loadtxt(
                    handle,
                    np.float64,
                    comments=None,
                    skiprows=rows_before,
                    max_rows=element.count,
                    ndmin=2,
                    encoding="latin1",
                )
        except (ValueError, UserWarning) as error:
            fail(path, f"element {element.name}: {' '.join(str(error).split())[:120]}")
    if values.shape != (element.count, width):
        fail(
            path,
            f"element {element.name} declares {element.count} rows of {width} values, found {values.shape}; truncated?",
        )
    return values.view(np.dtype([(name, "<f8") for name in element.properties]))[:, 0]
