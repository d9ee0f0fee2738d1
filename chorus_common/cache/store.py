"""The Zarr store behind a published scene: a folder whose files must be there, whole.

Zarr turns a missing chunk file, and an empty shard, into fill values without a word. For an array of bytes there is no
fill value that data could not hold, so the store itself compares each file with the list that was written before the
scene was published.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
from zarr.errors import ZarrUserWarning
from zarr.storage import LocalStore

from chorus_common.cache.schema import FILES, SCHEMA_VERSION
from chorus_common.errors import CacheError

# The delta filter of lifting/indices is numcodecs' own: zarr-python and anndata read it, and say so at every use.
warnings.filterwarnings("ignore", message="Numcodecs codecs are not in", category=ZarrUserWarning)


class FileRecord(NamedTuple):
    """Length in bytes and crc32c of one file."""

    size: int
    crc32c: int


def remedy(path: Path) -> str:
    """What a user can do about a store that cannot be used."""
    return f"delete {path} and run stage 1 again for this scene"


class CheckedStore(LocalStore):
    """A read-only LocalStore that raises CacheError where a recorded file is missing or has another length."""

    def __init__(self, root: Path | str, *, read_only: bool = True, records: Mapping[str, FileRecord]) -> None:
        super().__init__(root, read_only=read_only)
        self._records = records

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        record = self._records.get(key)
        if record is None:
            raise CacheError(f"cache {self.root}: {key} is not part of the store; {remedy(self.root)}")
        try:
            size = os.stat(self.root / key).st_size
        except OSError:
            raise CacheError(f"cache {self.root}: {key} is missing; {remedy(self.root)}") from None
        if size != record.size:
            raise CacheError(f"cache {self.root}: {key} has {size} bytes instead of {record.size}; {remedy(self.root)}")
        return await super().get(key, prototype, byte_range)


def list_files(root: Path) -> list[str]:
    """Paths of all files below `root`, relative, with "/", sorted."""
    found = []
    for folder, _, names in os.walk(root):
        found += [Path(folder, name).relative_to(root).as_posix() for name in names]
    return sorted(found)


def record_file(path: Path) -> FileRecord:
    """Length and crc32c of the file at `path`."""
    checksum, size = 0, 0
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            checksum, size = google_crc32c.extend(checksum, block), size + len(block)
    return FileRecord(size, checksum)


def dump_records(records: Mapping[str, FileRecord]) -> bytes:
    """Text of `_files.json`; it ends with the checksum of its own list."""
    rows = [[name, *record] for name, record in sorted(records.items())]
    return (
        json.dumps({"schema_version": SCHEMA_VERSION, "files": rows, "crc32c": _checksum(rows)}, indent=0).encode()
        + b"\n"
    )


def load_records(root: Path) -> dict[str, FileRecord]:
    """The list of files of the store at `root`. Raises CacheError where it is missing, damaged or of another schema."""
    path = root / FILES
    try:
        content = json.loads(path.read_bytes())
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
