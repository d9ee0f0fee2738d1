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

Place = Path | BucketPath


def parse_place(text: str | Place) -> Place:
    """s3://bucket/path or a path of this machine. Raises ConfigError for any other kind of address."""
    if not isinstance(text, str):
        return text
    if text.startswith(SCHEME):
        return BucketPath.parse(text)
    if "://" in text:
        raise ConfigError(f"{text}: stores are folders or s3:// addresses")
    return Path(text)


class PlaceType(click.ParamType):
    """The type of a --store option."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Place:
        return parse_place(value)


@contextmanager
def local_copy(place: Place) -> Iterator[Path]:
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
