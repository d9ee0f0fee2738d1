"""Manifests: which scenes there are, where they lie, and the hash of their bytes. One Parquet table, one row per scene.

Paths are stored relative to a declared root and are refused on reading when they leave it (absolute, "..", or a
symbolic link that points out), because manifests travel between machines and people. Data set names, splits and scene
ids become folder names of the cache, so they are plain words.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from chorus_common.runtime.atomic import atomic_path
from chorus_common.runtime.errors import ManifestError
from chorus_common.runtime.store_path import StorePath, local_copy, parse_store_path
from chorus_common.scene import RenderMode
from chorus_common.scene_check.words import AUTO, parse_number, parse_up
from chorus_common.scene_io.bounds import MAX_GAUSSIANS

if TYPE_CHECKING:
    from chorus_common.scene_check.settings import AlignmentSettings

SCHEMA_VERSION = 3

_SCHEMA = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("scene_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("scene_path", pa.string(), nullable=False),
        pa.field("cameras_path", pa.string(), nullable=True),
        pa.field("label_space", pa.string(), nullable=False),
        pa.field("n_gaussians", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("lod", pa.int64(), nullable=False),
        pa.field("render_mode", pa.string(), nullable=False),
        pa.field("up", pa.string(), nullable=False),
        pa.field("scale", pa.string(), nullable=False),
        pa.field("outliers", pa.string(), nullable=False),
    ]
)
_VERSION_KEY, _ROOT_KEY = b"chorus_manifest_version", b"chorus_manifest_root"

#: A manifest of a million scenes takes some hundred megabytes; what claims more is not one.
_MAX_ROWS, _MAX_BYTES = 2_000_000, 2 << 30

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ManifestRow:
    """One scene.

    `sha256` is that of the scene's bytes (`path_digest`); `label_space` is "" where there are no labels; `lod`: which
    level of a streamed scene is meant; `render_mode`: what the file's headers say of it (chorus_common.scene); `up`,
    `scale`, `outliers`: how it is brought in order (AlignmentSettings), "auto" = as its content tells. The words of a
    command line win over all of these. `limit` is no column: what a command line says of `max_gaussians`.
    """

    dataset: str
    scene_id: str
    split: str
    format: str
    scene_path: Path
    cameras_path: Path | None
    label_space: str
    n_gaussians: int
    sha256: str
    lod: int = 0
    render_mode: str = RenderMode.CLASSIC.value
    up: str = AUTO
    scale: str = AUTO
    outliers: str = AUTO
    limit: int | None = None

    @property
    def alignment(self) -> AlignmentSettings:
        """How the scene is brought in order where nobody says otherwise."""
        from chorus_common.scene_check.settings import AlignmentSettings  # programs that count scenes do without

        return AlignmentSettings(up=self.up, scale=self.scale, outliers=self.outliers)

    @property
    def max_gaussians(self) -> int:
        """Limit for reading the scene: what was indexed is read, however large it is, unless a command line says
        otherwise.
        """
        return self.limit or max(MAX_GAUSSIANS, self.n_gaussians)

    def told(self, lod: int | None, max_gaussians: int | None) -> ManifestRow:
        """The row with the words of a command line (None = nothing said) over its own."""
        return replace(self, lod=self.lod if lod is None else lod, limit=max_gaussians)


@dataclass(frozen=True)
class Manifest:
    """Scenes under one root folder; every path of a row is absolute and lies inside `root`.

    >>> row = ManifestRow("rooms", "room0", "train", "npy-folder", Path("/data/room0"), None, "", 1000, "0" * 64)
    >>> manifest = Manifest(Path("/data"), (row,))
    >>> [found.scene_id for found in manifest.select(split="train")], manifest.select(split="val")
    (['room0'], [])
    """

    root: Path
    rows: tuple[ManifestRow, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[ManifestRow]:
        return iter(self.rows)

    def select(self, split: str | None = None, dataset: str | None = None) -> list[ManifestRow]:
        """The rows of a split and of a data set (None: of all), in the manifest's order."""
        return [
            row
            for row in self.rows
            if (split is None or row.split == split) and (dataset is None or row.dataset == dataset)
        ]

    @classmethod
    def read(cls, path: str | StorePath, *, root: str | Path | None = None) -> Manifest:
        """Read and check a manifest.

        Args:
            path: Parquet file made by `write`; one in a bucket is for `read_placed`.
            root: where the scenes lie on this machine, if not where the manifest says.

        Raises:
            ManifestError: one line that names the manifest and the row.
        """
        path = parse_store_path(path)
        if not isinstance(path, Path):
            raise ManifestError(f"{path}: scenes are read from a disk here; copy the manifest and its scenes to one")
        table = _read_table(path)
        metadata = table.schema.metadata or {}
        if root is None:
            # the root is stored relative to the manifest where the two move together; joining keeps absolute ones
            root = path.parent / metadata.get(_ROOT_KEY, b".").decode("utf-8", "replace")
        root = Path(root).resolve()
        return cls(root, _checked(path, root, table.to_pylist()))

    def write(self, path: str | Path) -> Path:
        """Write the manifest as Parquet, atomically; the same rows give the same bytes."""
        path = Path(path)
        folder = path.parent.resolve()
        together = folder.is_relative_to(self.root) or self.root.is_relative_to(folder)
        root = os.path.relpath(self.root, folder) if together else str(self.root)
        records: list[dict[str, Any]] = []
        for row in self.rows:
            record = asdict(row)
            for key in ("scene_path", "cameras_path"):
                if record[key] is not None:
                    record[key] = _relative(path, self.root, record[key])
            records.append(record)
        _checked(path, self.root, records)
        schema = _SCHEMA.with_metadata({_VERSION_KEY: str(SCHEMA_VERSION).encode(), _ROOT_KEY: root.encode()})
        with atomic_path(path) as temporary:
            pq.write_table(pa.Table.from_pylist(records, schema=schema), temporary, compression="zstd")
        return path


def read_placed(place: StorePath) -> tuple[Manifest, Callable[[Path], StorePath]]:
    """The manifest at `place`, and where a path of its rows lies.

    Beside a manifest in a bucket lie its scenes, as its root says; those of an absolute root lie on this machine.
    Raises ManifestError as `Manifest.read` does.
    """
    if isinstance(place, Path):
        return Manifest.read(place), lambda path: path
    try:
        with local_copy(place) as copy:
            text = (_read_table(copy).schema.metadata or {}).get(_ROOT_KEY, b".").decode("utf-8", "replace")
            on_disk = PurePosixPath(text).is_absolute()
            manifest = Manifest.read(copy, root=text if on_disk else copy.parent)
    except FileNotFoundError:
        raise ManifestError(f"{place}: no such manifest; make one with `chorus-data index`") from None
    except ManifestError as error:
        raise ManifestError(str(error).replace(str(copy), str(place))) from None
    if on_disk:
        return manifest, lambda path: path
    root = place.parent
    for part in PurePosixPath(text).parts:
        root = root.parent if part == ".." else root / part
    return manifest, lambda path: root / path.relative_to(manifest.root).as_posix()


def plain_name(name: str) -> str:
    """`name` as one that may become a folder name: letters lose their accents, other characters become dashes."""
    if _NAME.fullmatch(name):
        return name
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", letters).strip("-.")[:128]
    return plain if _NAME.fullmatch(plain) else "scene"


def check_name(name: str, what: str) -> str:
    """`name` if it may become a folder name: letters, digits, dot, dash, underscore; at most 128; no leading dot."""
    if not _NAME.fullmatch(name):
        raise ManifestError(
            f"{what} {name[:80]!r} may hold only letters, digits, '.', '-' and '_' (at most 128, no leading dot)"
        )
    return name


def resolve_under(root: Path, relative: str) -> Path:
    """`root / relative`, if that stays inside `root` (itself resolved) when links are followed; else ManifestError."""
    pure = PurePosixPath(relative)
    if not relative or "\0" in relative or "\\" in relative or pure.is_absolute() or ".." in pure.parts:
        raise ManifestError(f"path {relative[:200]!r} must be relative, without '..'")
    path = root / pure
    try:
        inside = path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a loop of links
        inside = False
    if not inside:
        raise ManifestError(f"path {relative[:200]!r} leads out of {root}")
    return path


def path_digest(path: Path) -> str:
    """SHA-256 of a file's bytes; of a folder: over its files' relative names, sizes and bytes, sorted by name.

    Hidden names are left out: they are other programs' scratch files, and our own unfinished ones.
    """
    digest = hashlib.sha256()
    if path.is_file():
        _add_file(digest, path)
        return digest.hexdigest()
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    for name in sorted(name for name in files if not any(part.startswith(".") for part in name.split("/"))):
        # name and size first, so that moving bytes between files changes the hash
        digest.update(f"{name}\0{files[name].stat().st_size}\0".encode())
        _add_file(digest, files[name])
    return digest.hexdigest()


def _add_file(digest: Any, path: Path) -> None:
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)


def _relative(path: Path, root: Path, target: Path) -> str:
    if not target.is_relative_to(root):
        raise ManifestError(f"{path}: {target} does not lie in the root {root}")
    return target.relative_to(root).as_posix()


def _read_table(path: Path) -> pa.Table:
    if not path.is_file():
        raise ManifestError(f"{path}: no such manifest; make one with `chorus-data index`")
    try:
        with pq.ParquetFile(path) as file:
            found = file.schema_arrow.metadata or {}
            version = found.get(_VERSION_KEY, b"").decode("utf-8", "replace")
            if version != str(SCHEMA_VERSION):
                raise ManifestError(
                    f"{path}: manifest version {version or 'missing'}, this program reads {SCHEMA_VERSION}; "
                    "index the scenes again"
                )
            groups = (file.metadata.row_group(i) for i in range(file.num_row_groups))
            if file.metadata.num_rows > _MAX_ROWS or sum(group.total_byte_size for group in groups) > _MAX_BYTES:
                raise ManifestError(f"{path}: declares {file.metadata.num_rows} rows, more than a manifest may have")
            if not file.schema_arrow.equals(_SCHEMA, check_metadata=False):
                raise ManifestError(f"{path}: is not a manifest (its columns differ); index the scenes again")
            table = file.read(use_threads=False)
            table.validate(full=True)  # text that is not UTF-8
            return table
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # a column name may be damaged too
        raise ManifestError(f"{path}: not a readable Parquet file: {' '.join(str(error).split())[:200]}") from None


def _checked(path: Path, root: Path, records: Iterable[dict[str, Any]]) -> tuple[ManifestRow, ...]:
    rows: list[ManifestRow] = []
    seen: set[tuple[str, str]] = set()
    for i, record in enumerate(records):
        try:
            if any(record[name] is None for name in _SCHEMA.names if name != "cameras_path"):
                raise ManifestError("a value is missing")
            for key, what in (("dataset", "data set"), ("scene_id", "scene id"), ("split", "split")):
                check_name(record[key], what)
            if not _SHA256.fullmatch(record["sha256"]) or record["n_gaussians"] < 1:
                raise ManifestError("sha256 or n_gaussians is damaged")
            if record["lod"] < 0 or record["render_mode"] not in set(RenderMode):
                raise ManifestError("lod or render_mode is damaged")
            try:
                parse_up(record["up"])
                parse_number(record["scale"])
                parse_number(record["outliers"])
            except ValueError:
                raise ManifestError("up, scale or outliers is damaged") from None
            cameras = record["cameras_path"]
            row = ManifestRow(
                **record
                | {
                    "scene_path": resolve_under(root, record["scene_path"]),
                    "cameras_path": None if cameras is None else resolve_under(root, cameras),
                }
            )
        except ManifestError as error:
            raise ManifestError(f"{path}: row {i}: {error}") from None
        if (row.dataset, row.scene_id) in seen:
            raise ManifestError(f"{path}: row {i}: scene {row.dataset}/{row.scene_id} is listed twice")
        seen.add((row.dataset, row.scene_id))
        rows.append(row)
    return tuple(rows)
