"""A user's own .ply written anew with further properties, or with some of its rows alone; all else byte for byte.

New properties come last in the element `vertex`, where readers that look properties up by name do not mind them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.atomic import atomic_path
from chorus_common.scene_io.bounds import check_fits, fail
from chorus_common.scene_io.ply import PlyElement, PlyHeader, read_ply_header

_NAMES = {"i4": "int", "f4": "float", "u1": "uchar"}
#: Bytes of rows copied at a time.
_BLOCK = 1 << 24


def rewrite_ply(
    source: Path, out: Path, columns: Mapping[str, NDArray[Any]], rows: NDArray[np.integer] | None = None
) -> Path:
    """Write `source` to `out` with `columns` as further properties of its vertices.

    Args:
        columns: name -> [N] numbers, N = the vertices that are written; whole numbers become int, others float. A
            property of the same name is replaced.
        rows: the vertices to write, in this order; None: all. Elements after the vertices are then left out where they
            have a row per vertex and cannot be cut alike.

    Raises:
        SceneError: an element with lists stands before the vertices, or the vertices are packed in chunks and `rows` is
            given.
    """
    header = read_ply_header(source)
    vertex = header.element("vertex")
    if vertex is None:
        fail(source, "has no vertex element")
    if rows is not None and header.element("chunk") is not None:
        fail(source, "has vertices packed in chunks, of which none can stand alone")
    added = {name: _typed(values) for name, values in columns.items()}
    count = vertex.count if rows is None else len(rows)
    for name, values in added.items():
        if values.shape != (count,):
            fail(source, f"{name} has shape {values.shape}, expected {(count,)}")
    kept = [name for name in vertex.properties if name not in added]
    with atomic_path(out) as temporary, open(source, "rb") as reader, open(temporary, "wb") as writer:
        writer.write(_header_text(reader, header, added, count))
        reader.seek(header.size)
        if header.order:
            _copy_binary(source, reader, writer, header, vertex, kept, added, rows)
        else:
            _copy_ascii(source, reader, writer, header, vertex, kept, added, rows)
    return out


def _typed(values: NDArray[Any]) -> NDArray[Any]:
    """i4, u1 or f4."""
    values = np.asarray(values)
    if values.dtype == np.uint8:
        return values
    return values.astype(np.int32 if values.dtype.kind in "iub" else np.float32)


def _header_text(reader: IO[bytes], header: PlyHeader, added: Mapping[str, NDArray[Any]], count: int) -> bytes:
    """The source's header with its own line breaks and comments; only the vertices' lines change."""
    text = reader.read(header.size)
    newline = b"\r\n" if text[3:5] == b"\r\n" else text[3:4]
    out: list[bytes] = []
    inside = False
    for line in text.split(newline)[:-1]:
        words = line.split()
        starts = words[:1] == [b"element"] or words[:1] == [b"end_header"]
        if inside and starts:
            out += [f"property {_NAMES[v.dtype.str[1:]]} {name}".encode("latin1") for name, v in added.items()]
            inside = False
        if words[:2] == [b"element", b"vertex"]:
            inside, line = True, b"element vertex %d" % count
        elif inside and words[:1] == [b"property"] and words[-1].decode("latin1") in added:
            continue
        out.append(line)
    return newline.join(out) + newline


def _element_bytes(source: Path, header: PlyHeader, element: PlyElement, at: int) -> int:
    """Size of a binary element at offset `at`, proved to fit the file."""
    if element.has_list:
        fail(source, f"element {element.name} with lists stands before the vertices; only fixed rows can be kept there")
    stride = sum(np.dtype(code).itemsize for code in element.properties.values())
    check_fits(source, element.count, stride, source.stat().st_size - at, f"element {element.name}")
    return element.count * stride


def _copy_binary(
    source: Path,
    reader: IO[bytes],
    writer: IO[bytes],
    header: PlyHeader,
    vertex: PlyElement,
    kept: list[str],
    added: Mapping[str, NDArray[Any]],
    rows: NDArray[np.integer] | None,
) -> None:
    at = header.size
    for element in header.elements:
        size = _element_bytes(source, header, element, at)
        if element is vertex:
            break
        _copy(reader, writer, size)
        at += size
    old = np.dtype([(name, header.order + code) for name, code in vertex.properties.items()])
    new = np.dtype(
        [(name, old[name]) for name in kept]
        + [(name, np.dtype(header.order + values.dtype.str[1:])) for name, values in added.items()]
    )
    table = np.memmap(source, old, "r", at, (vertex.count,)) if vertex.count else np.empty(0, old)
    order = np.arange(vertex.count) if rows is None else np.asarray(rows)
    step = max(1, _BLOCK // new.itemsize)
    for start in range(0, len(order), step):
        part = order[start : start + step]
        block, given = np.empty(len(part), new), table[part]
        for name in kept:
            block[name] = given[name]
        for name, values in added.items():
            block[name] = values[start : start + step]
        writer.write(block.tobytes())
    reader.seek(at + vertex.count * old.itemsize)
    if rows is None:
        _copy(reader, writer, None)


def _copy_ascii(
    source: Path,
    reader: IO[bytes],
    writer: IO[bytes],
    header: PlyHeader,
    vertex: PlyElement,
    kept: list[str],
    added: Mapping[str, NDArray[Any]],
    rows: NDArray[np.integer] | None,
) -> None:
    for element in header.elements:
        if element is vertex:
            break
        for _ in range(element.count):
            writer.write(reader.readline())
    lines: list[bytes] = []
    while len(lines) < vertex.count:
        line = reader.readline()
        if not line:
            fail(source, f"holds {len(lines)} of {vertex.count} vertices; truncated?")
        if line.strip():
            lines.append(line)
    names = list(vertex.properties)
    columns = [values.tolist() for values in added.values()]
    order = range(vertex.count) if rows is None else [int(row) for row in rows]
    for place, row in enumerate(order):
        words = lines[row].split()
        words = [word for name, word in zip(names, words) if name in kept]
        words += [repr(values[place]).encode() for values in columns]
        writer.write(b" ".join(words) + b"\n")
    if rows is None:
        _copy(reader, writer, None)


def _copy(reader: IO[bytes], writer: IO[bytes], size: int | None) -> None:
    """Copy `size` bytes, or all that follow."""
    while size is None or size > 0:
        block = reader.read(_BLOCK if size is None else min(_BLOCK, size))
        if not block:
            return
        writer.write(block)
        size = None if size is None else size - len(block)
