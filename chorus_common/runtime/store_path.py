"""Where a store lies: a folder of this machine, or a place in an S3-compatible bucket."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from chorus_common.runtime.bucket import SCHEME, BucketPath
from chorus_common.runtime.errors import ConfigError

StorePath = Path | BucketPath


def parse_store_path(text: str | StorePath) -> StorePath:
    """s3://bucket/path or a path of this machine. Raises ConfigError for any other kind of address."""
    if not isinstance(text, str):
        return text
    if text.startswith(SCHEME):
        return BucketPath.parse(text)
    if "://" in text:
        raise ConfigError(f"{text}: stores are folders or s3:// addresses")
    return Path(text)


class StorePathType(click.ParamType):
    """The type of a --store option."""

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
    data = place.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, place.name)
        copy.write_bytes(data)
        yield copy
