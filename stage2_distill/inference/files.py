"""Result files that are filled row by row on the disk and appear under their names only when they are whole."""

from __future__ import annotations

import errno
import json
import mmap
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from chorus_common.runtime.atomic import atomic_path
from chorus_common.runtime.errors import ConfigError

FileFormat = Literal["npy", "pt", "safetensors"]
#: Rows that are worked on at a time where a file is read again.
ROWS = 1 << 14
_TYPES = {"float16": "F16", "float32": "F32", "int64": "I64", "bool": "BOOL"}


@dataclass(frozen=True)
class Target:
    """Where a scene's files go: `stem` + what they hold, in `format`.

    Attributes:
        stem: "DIR/<scene>_"; or, for a single file, that file without its ending.
        single: whether `stem` is that of a single file, which is called after no output.
    """

    stem: str
    single: bool
    format: FileFormat

    def path(self, output: str, part: str = "") -> Path:
        """The file of an output, or of one of its parts (.npy holds one array)."""
        stem = self.stem if self.single else f"{self.stem}{output}"
        feat = "" if self.format == "npy" or self.single else "_feat"
        return Path(f"{stem}{f'_{part}' if part else feat}.{self.format}")

    @property
    def record(self) -> Path:
        """The JSON file that says how the others were made."""
        return Path(f"{self.stem}.json" if self.single else f"{self.stem}encode.json")

    @property
    def mask(self) -> Path:
        """Where masked rows are marked, bool [N]."""
        return Path(f"{self.stem}{'_' if self.single else ''}outlier.npy")

    @property
    def work(self) -> Path:
        """Folder for what is made before the files are whole."""
        stem = Path(self.stem)
        return stem.with_name(f".{stem.name.rstrip('_')}.work")


class RowFile:
    """An array [N, C] on the disk, zeros at first, whose rows are set or added to in any order."""

    def __init__(self, path: Path, rows: int, channels: int, dtype: np.dtype[Any]) -> None:
        self.path, self._dtype = path, dtype
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as handle:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, channels)}
            np.lib.format.write_array_header_1_0(handle, header)
            start = handle.tell()
            reserve(handle.fileno(), path, start + rows * channels * dtype.itemsize)
        self.values: NDArray[Any] = np.memmap(path, dtype=dtype, mode="r+", offset=start, shape=(rows, channels))

    def set(self, rows: NDArray[np.integer], values: torch.Tensor) -> None:
        """Set `rows` [n] to `values` [n, C]."""
        self.values[rows] = values.float().cpu().numpy().astype(self._dtype, copy=False)
        self.release()

    def add(self, rows: NDArray[np.integer], values: torch.Tensor) -> None:
        """Add `values` [n, C] to `rows` [n], each of which occurs once."""
        self.values[rows] += values.float().cpu().numpy()
        self.release()

    def release(self) -> None:
        """Give back the memory of the rows; their contents stay."""
        self.values._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]

    def publish(self, path: Path, format: FileFormat, name: str) -> None:
        """Give the array its place; in safetensors it is called `name`."""
        self.values.flush()  # type: ignore[attr-defined]
        if format == "npy":
            with atomic_path(path) as temporary:
                os.replace(self.path, temporary)
        else:
            write_arrays(path, format, {name: self.values}, release=self.release)
        del self.values
        self.path.unlink(missing_ok=True)


def reserve(descriptor: int, path: Path, size: int) -> None:
    """Blocks on the disk before anything is written: a mapped file that runs out of them kills the process."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise ConfigError(
            f"{path.parent}: no room for {size / 2**30:.1f} GiB more; free some, or name a folder on another disk"
        ) from None


def write_arrays(
    path: Path,
    format: FileFormat,
    arrays: Mapping[str, NDArray[Any]],
    release: Callable[[], None] | None = None,
) -> None:
    """Arrays by name in one .pt (one array alone: a tensor; several: a dictionary) or .safetensors file, atomically."""
    if format == "pt":
        tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}
        with atomic_path(path) as temporary:
            torch.save(tensors if len(tensors) > 1 else next(iter(tensors.values())), temporary)
        return
    # the format is a length, a JSON header and the bytes, so that no array has to be in memory
    header, start = {}, 0
    for name, value in arrays.items():
        header[name] = {"dtype": _TYPES[value.dtype.name], "shape": value.shape,
                        "data_offsets": [start, start + value.nbytes]}  # fmt: skip
        start += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        handle.write(len(text).to_bytes(8, "little") + text)
        for value in arrays.values():
            for first in range(0, len(value), ROWS):
                handle.write(np.ascontiguousarray(value[first : first + ROWS]).tobytes())
                if release is not None:
                    release()
