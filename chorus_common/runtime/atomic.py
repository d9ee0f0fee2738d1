"""Files appear whole or not at all: written beside their destination, synced, then renamed over it. Objects of a bucket
do so by themselves.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from chorus_common.runtime.bucket import BucketPath
from chorus_common.runtime.store_path import StorePath


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it is synced and renamed to `path`, on any error removed.

    A process killed in between leaves only `.tmp-*` files, which nobody reads.
    """
    path = Path(path)
    with _written_beside(path) as temporary:
        yield temporary
        _fsync_file(temporary)
        os.replace(temporary, path)
        fsync_directory(path.parent)


def write_bytes_atomically(path: str | StorePath, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    if isinstance(path, BucketPath):
        path.write_bytes(data)
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def create_bytes_atomically(path: StorePath, data: bytes) -> bool:
    """Write `data` to `path` unless something is there; whether it was written. Of several at once, one succeeds."""
    if isinstance(path, BucketPath):
        return path.create_bytes(data)
    with _written_beside(path) as temporary:
        temporary.write_bytes(data)
        _fsync_file(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        fsync_directory(path.parent)
    return True


def write_text_atomically(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    write_bytes_atomically(path, text.encode("utf-8"))


def fsync_directory(path: Path) -> None:
    """Make a rename inside `path` durable (a directory entry is data of its directory)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _written_beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex}-{path.name}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _fsync_file(path: Path) -> None:
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())
