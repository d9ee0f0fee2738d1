"""Zip archives and folders as sources of named files, none of which is inflated beyond what its archive can hold."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from chorus_common.runtime.errors import SceneError
from chorus_common.scene_io.bounds import fail

#: deflate cannot shrink more than 1032:1, so a member that claims more lies about its size.
MAX_RATIO = 1032


class Files(Protocol):
    """Files by name under one scene."""

    def size(self, name: str) -> int:
        """Bytes of file `name`. Raises SceneError where it is missing."""
        ...

    def read(self, name: str) -> bytes:
        """Content of file `name`. Raises SceneError where it is missing or damaged."""
        ...


def open_zip(path: Path, what: str) -> zipfile.ZipFile:
    """The archive at `path`; SceneError, calling it `what`, where it is none."""
    try:
        return zipfile.ZipFile(path)
    except Exception as error:  # a damaged directory raises BadZipFile, ValueError, struct.error, UnicodeError, ...
        fail(path, f"is not {what}: {error}")


def check_member(path: Path, member: zipfile.ZipInfo, what: str) -> None:
    """Refuse a member whose declared sizes its archive cannot hold."""
    if member.compress_size > path.stat().st_size or member.file_size > member.compress_size * MAX_RATIO + 64:
        fail(path, f"{what} declares {member.file_size} bytes, more than the archive can hold")


class ZipFiles:
    """The members of the archive at `path` under `base` ("" or a folder that ends in "/")."""

    def __init__(self, path: Path, base: str, what: str) -> None:
        self.path, self._base, self._what = path, base, what
        with open_zip(path, what) as archive:
            self._members = {info.filename: info for info in archive.infolist()}

    def _member(self, name: str) -> zipfile.ZipInfo:
        member = self._members.get(self._base + name)
        if member is None:
            fail(self.path, f"holds no {name}")
        check_member(self.path, member, name)
        return member

    def everything(self) -> Iterator[tuple[str, bytes]]:
        """Names under the base, and contents."""
        for name in self._members:
            if name.startswith(self._base) and not name.endswith("/"):
                inner = name.removeprefix(self._base)
                yield inner, self.read(inner)

    def size(self, name: str) -> int:
        return self._member(name).file_size

    def read(self, name: str) -> bytes:
        member = self._member(name)
        try:
            with open_zip(self.path, self._what) as archive, archive.open(member) as handle:
                data = handle.read(member.file_size)
        except SceneError:
            raise
        except Exception as error:  # zipfile and zlib raise a dozen types on damaged members
            fail(self.path, f"{name} is damaged: {' '.join(str(error).split())[:120]}")
        if len(data) < member.file_size:
            fail(self.path, f"{name} ends early; truncated?")
        return data


class SceneFolder:
    """The files of a folder; names that lead out of it are refused."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _file(self, name: str) -> Path:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
            fail(self.path, f"names the file {name[:80]!r}, which does not lie in its folder")
        file = self.path / name
        if not file.is_file():
            fail(self.path, f"holds no {name[:80]}")
        return file

    def size(self, name: str) -> int:
        return self._file(name).stat().st_size

    def read(self, name: str) -> bytes:
        return self._file(name).read_bytes()
