"""Single .npy arrays, opened only after their header fits the bytes on disk; never pickles."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.scene_io.bounds import check_fits, fail

#: Real headers take about 120 bytes, structured ones some hundreds.
_MAX_HEADER = 8192


def npy_header(handle: IO[bytes], path: Path, available: int) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """dtype, shape, Fortran order and header length of the array that starts at `handle`; `available` bytes in all.

    Raises SceneError where the header is damaged, holds Python objects or promises more than `available`.
    Layout: numpy/lib/format.py (magic, version, little-endian header length, a Python literal).
    """
    start = handle.read(8)
    if len(start) < 8 or start[:6] != b"\x93NUMPY" or start[6] not in (1, 2, 3):
        fail(path, "not a .npy array")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(handle.read(width), "little")
    if not 0 < length <= min(_MAX_HEADER, available):
        fail(path, f".npy header of {length} bytes is damaged")
    try:
        text = handle.read(length).decode("utf-8" if start[6] == 3 else "latin1")
        header = ast.literal_eval(text.strip())
        dtype = np.lib.format.descr_to_dtype(header["descr"])
        shape, fortran = header["shape"], header["fortran_order"]
    except Exception:  # a literal can fail in a dozen ways (syntax, recursion, memory, dtype); all mean "damaged"
        fail(path, ".npy header is damaged")
    if dtype.hasobject:
        fail(path, "holds Python objects; save plain numbers instead")
    sizes_ok = isinstance(shape, tuple) and all(type(n) is int and 0 <= n < 2**48 for n in shape) and len(shape) <= 4
    if not sizes_ok or not isinstance(fortran, bool) or not 0 < dtype.itemsize <= 4096:
        fail(path, ".npy header is damaged")
    offset = 8 + width + length
    check_fits(path, math.prod(shape), dtype.itemsize, available - offset, "array")
    return dtype, shape, fortran, offset


def open_npy(path: Path) -> NDArray[Any]:
    """The array at `path` as a read-only memory map."""
    size = path.stat().st_size
    with open(path, "rb") as handle:
        dtype, shape, fortran, offset = npy_header(handle, path, size)
    if math.prod(shape) == 0:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
