"""Re-check every byte of a store, and report all that is wrong rather than the first thing."""

from __future__ import annotations

from dataclasses import dataclass

from chorus_common.cache.files import open_files
from chorus_common.cache.reader import SceneCache
from chorus_common.cache.store import load_records, record_file
from chorus_common.runtime.errors import CacheError, one_line
from chorus_common.runtime.store_path import StorePath, parse_store_path


@dataclass(frozen=True)
class Problem:
    """`where`: a file or array of the store, or its path; `what`: one line."""

    where: str
    what: str


def verify_store(path: str | StorePath) -> list[Problem]:
    """Problems of the store at `path`; empty when it is sound.

    Every file's length and crc32c against the list that was recorded before publishing; then everything
    `SceneCache.open` checks; then each chunk of each array decoded.
    """
    root = parse_store_path(path)
    problems = []
    try:
        files = open_files(root)
        records = load_records(files)
    except CacheError as error:
        return [Problem(str(root), one_line(error))]
    for name, record in records.items():
        try:
            found = record_file(files, name)
        except OSError as error:
            problems.append(Problem(name, f"cannot be read: {error.strerror}"))
            continue
        if found.size != record.size:
            problems.append(Problem(name, f"has {found.size} bytes instead of {record.size}"))
        elif found != record:
            problems.append(Problem(name, "checksum differs"))
    if problems:
        return problems
    try:
        cache = SceneCache.open(root)
    except CacheError as error:
        return [Problem(str(root), one_line(error))]
    for name in cache.arrays:
        try:
            cache.check_array(name)
        except CacheError as error:
            problems.append(Problem(name, one_line(error)))
    return problems
