"""The Zarr store behind a published scene: files that must be there, whole.

Zarr turns a missing chunk file, and an empty shard, into fill values without a word. For an array of bytes there is no
fill value that data could not hold, so the store itself compares each file with the list that was written before the
scene was published.
"""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.errors import ZarrUserWarning

from chorus_common.cache.files import FolderFiles, SceneFiles
from chorus_common.cache.names import SCHEMA_VERSION
from chorus_common.cache.schema import FILES
from chorus_common.runtime.errors import CacheError
from chorus_common.runtime.store_path import StorePath

# The delta filter of lifting/indices is numcodecs' own: zarr-python and anndata read it, and say so at every use.
warnings.filterwarnings("ignore", message="Numcodecs codecs are not in", category=ZarrUserWarning)


class FileRecord(NamedTuple):
    """Length in bytes and crc32c of one file."""

    size: int
    crc32c: int


def remedy(path: StorePath) -> str:
    """What a user can do about a store that cannot be used."""
    return f"delete {path} and run stage 1 again for this scene"


class CheckedStore(Store):
    """A read-only store that raises CacheError where a recorded file is missing or has another length."""

    supports_writes = False
    supports_deletes = False
    supports_listing = False

    def __init__(self, files: SceneFiles, records: Mapping[str, FileRecord]) -> None:
        super().__init__(read_only=True)
        self._files, self._records = files, records

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        data = await asyncio.to_thread(self._read, key, byte_range)
        return (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    def _read(self, key: str, byte_range: Any) -> bytes:
        root = self._files.root
        record = self._records.get(key)
        if record is None:
            raise CacheError(f"cache {root}: {key} is not part of the store; {remedy(root)}")
        try:
            size = self._files.size(key) if self._files.cheap_sizes else record.size
            if size != record.size:
                raise CacheError(f"cache {root}: {key} has {size} bytes instead of {record.size}; {remedy(root)}")
            start, end = _span(byte_range, size)
            data = self._files.read(key, start, end)
        except OSError as error:
            raise CacheError(f"cache {root}: {key} is missing ({error.strerror}); {remedy(root)}") from None
        if len(data) != end - start:
            raise CacheError(f"cache {root}: {key} is shorter than its {record.size} bytes; {remedy(root)}")
        return data

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> list[Any]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        return key in self._records

    async def set(self, key: str, value: Any) -> None:
        raise NotImplementedError("published scenes are never changed")

    async def delete(self, key: str) -> None:
        raise NotImplementedError("published scenes are never changed")

    def list(self) -> AsyncIterator[str]:
        raise NotImplementedError("a scene's arrays are listed in its attributes")

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        raise NotImplementedError("a scene's arrays are listed in its attributes")

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        raise NotImplementedError("a scene's arrays are listed in its attributes")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CheckedStore) and other._files == self._files

    __hash__ = None  # type: ignore[assignment]


def _span(byte_range: Any, size: int) -> tuple[int, int]:
    """Begin and end of what is asked for of a file of `size` bytes."""
    match byte_range:
        case None:
            return 0, size
        case RangeByteRequest(start=start, end=end):
            return start, min(end, size)
        case OffsetByteRequest(offset=offset):
            return min(offset, size), size
        case SuffixByteRequest(suffix=suffix):
            return max(0, size - suffix), size
    raise TypeError(f"unexpected range {byte_range}")


def list_files(root: Path) -> list[str]:
    """Paths of all files below `root`, relative, with "/", sorted."""
    return sorted(FolderFiles(root).sizes())


def record_file(files: SceneFiles, name: str) -> FileRecord:
    """Length and crc32c of one file. Raises FileNotFoundError."""
    checksum, size = 0, 0
    for block in files.blocks(name):
        checksum, size = google_crc32c.extend(checksum, block), size + len(block)
    return FileRecord(size, checksum)


def dump_records(records: Mapping[str, FileRecord]) -> bytes:
    """Text of `_files.json`; it ends with the checksum of its own list."""
    rows = [[name, *record] for name, record in sorted(records.items())]
    return (
        json.dumps({"schema_version": SCHEMA_VERSION, "files": rows, "crc32c": _checksum(rows)}, indent=0).encode()
        + b"\n"
    )


def load_records(files: SceneFiles) -> dict[str, FileRecord]:
    """The list of a store's files. Raises CacheError where it is missing, damaged or of another schema."""
    root = files.root
    try:
        content = json.loads(files.read(FILES))
        version, rows, checksum = content["schema_version"], content["files"], content["crc32c"]
    except (FileNotFoundError, NotADirectoryError):
        raise CacheError(f"cache {root}: incomplete, {FILES} is missing; {remedy(root)}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(f"cache {root}: {FILES} is damaged ({type(error).__name__}); {remedy(root)}") from None
    if version != SCHEMA_VERSION:
        raise CacheError(
            f"cache {root}: schema version {version!r}, this program reads {SCHEMA_VERSION}; {remedy(root)}"
        )
    if checksum != _checksum(rows):
        raise CacheError(f"cache {root}: {FILES} is damaged (checksum differs); {remedy(root)}")
    return {name: FileRecord(size, crc) for name, size, crc in rows}


def _checksum(rows: object) -> int:
    return int(google_crc32c.value(json.dumps(rows).encode()))
