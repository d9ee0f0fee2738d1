"""The files behind one published scene, on a disk or in a bucket.

On a disk a scene is a folder, published by renaming it. A bucket has no rename: there the objects are written under a
name that nobody else uses, `<dataset>/.objects/<scene_id>~<uuid>/`, and the scene is published by creating one small
object, `<dataset>/<scene_id>.zarr`, that names them. Either way `<scene_id>.zarr` is the only mark of "done", it
appears in one step, and of several writers one succeeds.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from chorus_common.cache.names import SCHEMA_VERSION, TEMPORARY_PREFIX
from chorus_common.runtime.bucket import PARALLEL, BucketPath
from chorus_common.runtime.errors import CacheError
from chorus_common.runtime.store_path import StorePath

#: Where the objects of a data set's scenes lie; hidden, like a temporary folder.
OBJECTS = ".objects"

_BLOCK = 1 << 20


class SceneFiles(Protocol):
    """Files by their name relative to the store. Reading what is not there raises FileNotFoundError."""

    #: Whether asking for one size costs next to nothing, and not a request to a server.
    cheap_sizes: ClassVar[bool]

    @property
    def root(self) -> StorePath: ...

    @property
    def lists(self) -> bool:
        """Whether `sizes` can be asked."""
        ...

    def sizes(self) -> dict[str, int]:
        """Sizes of all files that are there."""
        ...

    def size(self, name: str) -> int:
        """Size of one file."""
        ...

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """Bytes `start` to `end` of one file; fewer where it is shorter."""
        ...

    def read_many(self, names: list[str]) -> list[bytes]:
        """All bytes of several files."""
        ...

    def blocks(self, name: str) -> Iterator[bytes]:
        """All bytes of one file, a block at a time."""
        ...


@dataclass(frozen=True)
class FolderFiles:
    """A scene's folder."""

    root: Path
    cheap_sizes: ClassVar[bool] = True
    lists: ClassVar[bool] = True

    def sizes(self) -> dict[str, int]:
        found = {}
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = Path(folder, name)
                found[path.relative_to(self.root).as_posix()] = path.stat().st_size
        return found

    def size(self, name: str) -> int:
        return os.stat(self.root / name).st_size

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        with open(self.root / name, "rb") as handle:
            handle.seek(start)
            return handle.read() if end is None else handle.read(end - start)

    def read_many(self, names: list[str]) -> list[bytes]:
        return [self.read(name) for name in names]

    def blocks(self, name: str) -> Iterator[bytes]:
        with open(self.root / name, "rb") as handle:
            while block := handle.read(_BLOCK):
                yield block


@dataclass(frozen=True)
class BucketFiles:
    """A scene's objects. `root`: the object that published them; `objects`: what their keys begin with."""

    root: BucketPath
    objects: BucketPath
    cheap_sizes: ClassVar[bool] = False

    @property
    def lists(self) -> bool:
        return self.root.lists

    def sizes(self) -> dict[str, int]:
        return {name: size for name, (size, _) in self.objects.files().items()}

    def size(self, name: str) -> int:
        return (self.objects / name).size()

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        return (self.objects / name).read_bytes(start, end)

    def read_many(self, names: list[str]) -> list[bytes]:
        return self.objects.read_many(names)

    def blocks(self, name: str) -> Iterator[bytes]:
        size = self.size(name)
        for begin in range(0, size, 16 * _BLOCK):
            yield self.read(name, begin, min(begin + 16 * _BLOCK, size))


def open_files(path: StorePath) -> SceneFiles:
    """The files of the scene published at `path`. Raises CacheError where there is none."""
    if isinstance(path, Path):
        if not path.is_dir():
            raise CacheError(f"cache {path}: no such store; run stage 1 for this scene")
        return FolderFiles(path)
    try:
        return BucketFiles(path, path.parent / _read_pointer(path))
    except FileNotFoundError:
        raise CacheError(f"cache {path}: no such store; run stage 1 for this scene") from None


def is_published(path: StorePath) -> bool:
    """Whether a scene is published at `path`."""
    return path.exists() if isinstance(path, Path) else path.is_file()


def published_scenes(store: StorePath) -> list[StorePath]:
    """Paths of all published scenes of a store, sorted."""
    found: list[StorePath] = list(store.glob("*/*.zarr"))
    return sorted((path for path in found if not path.parent.name.startswith(".")), key=str)


def published_bytes(path: StorePath) -> int:
    """Size of a published scene."""
    return sum(open_files(path).sizes().values())


def upload(folder: Path, path: BucketPath) -> bool:
    """Publish the files of `folder` as the scene `path`; False where another process was first.

    Nothing refers to the objects until the last step, which either names all of them or does not happen.
    """
    objects = path.parent / OBJECTS / f"{path.stem}~{uuid.uuid4().hex}"
    files = FolderFiles(folder).sizes()
    with ThreadPoolExecutor(PARALLEL) as threads:
        list(threads.map(lambda name: (objects / name).write_bytes((folder / name).read_bytes()), sorted(files)))
    if {name: size for name, (size, _) in objects.files().items()} != files:
        raise CacheError(f"{objects}: the bucket lost objects that were just written; run the same command again")
    if path.create_bytes(_pointer(objects)):
        return True
    objects.remove_tree()
    return False


def unpublish(path: StorePath) -> None:
    """Take a published scene away in one step, then remove its files at leisure; a kill in between leaves only what
    `sweep_orphans` removes.
    """
    if isinstance(path, Path):
        condemned = path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
        os.rename(path, condemned)
        shutil.rmtree(condemned)
        return
    try:
        objects = path.parent / _read_pointer(path)
    except (CacheError, FileNotFoundError):
        path.unlink()  # whatever it named before it was damaged is left to the sweep
        return
    path.unlink()
    objects.remove_tree()


def uploads(folder: BucketPath) -> dict[BucketPath, bool]:
    """All uploads of a data set's folder in a bucket, and whether a published scene refers to each."""
    published = set(folder.glob("*.zarr"))
    _, names = (folder / OBJECTS).children()
    found: dict[BucketPath, bool] = {}
    for name in names:
        scene = folder / f"{name.partition('~')[0]}.zarr"
        try:
            found[folder / OBJECTS / name] = scene in published and _read_pointer(scene) == f"{OBJECTS}/{name}"
        except CacheError:
            found[folder / OBJECTS / name] = True  # a damaged mark must not cost anybody the data
        except FileNotFoundError:
            found[folder / OBJECTS / name] = False
    return found


def _pointer(objects: BucketPath) -> bytes:
    content = {"schema_version": SCHEMA_VERSION, "objects": f"{OBJECTS}/{objects.name}"}
    return json.dumps(content, sort_keys=True).encode() + b"\n"


def _read_pointer(path: BucketPath) -> str:
    """What the scene's objects begin with, relative to its data set. Raises CacheError, FileNotFoundError."""
    data = path.read_bytes()
    try:
        relative = json.loads(data)["objects"]
        sound = data == _pointer(path.parent / relative) and relative.startswith(f"{OBJECTS}/{path.stem}~")
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise CacheError(
            f"cache {path}: the object that publishes it is damaged or of another schema; delete {path} and run "
            "stage 1 again for this scene"
        )
    return str(relative)
