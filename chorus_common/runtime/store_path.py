"""Where a store lies: a folder of this machine, or a place in a bucket or on a web server."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from chorus_common.runtime.bucket import SCHEMES, BucketPath
from chorus_common.runtime.errors import ConfigError

StorePath = Path | BucketPath


def parse_store_path(text: str | StorePath) -> StorePath:
    """s3://bucket/path (or the same with another of `SCHEMES`), or a path of this machine. Raises ConfigError for any
    other kind of address.
    """
    if not isinstance(text, str):
        return text
    scheme, there, _ = text.partition("://")
    if not there:
        return Path(text)
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ConfigError(f"{text}: takes a folder or an address that begins with {known}")
    return BucketPath.parse(text)


class StorePathType(click.ParamType):
    """The type of an option that takes a path or an address in a bucket."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> StorePath:
        return parse_store_path(value)


@contextmanager
def local_copy(place: StorePath) -> Iterator[Path]:
    """A file of this machine with the bytes of `place`: itself, or a copy that is gone afterwards. FileNotFoundError
    where there is none.
    """
    if isinstance(place, Path):
        yield place
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, place.name)
        place.download(copy)
        yield copy


@contextmanager
def local_folder(place: StorePath, wanted: Sequence[Sequence[str]]) -> Iterator[Path]:
    """A folder of this machine with files of the folder `place`: itself, or a copy of them that is gone afterwards.

    wanted: what is copied, the first that there is of each group of names; nothing else is fetched.
    """
    if isinstance(place, Path):
        yield place
        return
    there = set(place.children()[0]) if place.lists else None
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, place.name)
        copy.mkdir()
        for names in wanted:
            for name in names:
                if (name in there) if there is not None else (place / name).is_file():
                    (place / name).download(copy / name)
                    break
        yield copy
