"""Read one scene's store: exact arrays, or a CacheError that says what to do. Never fill values."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import ValidationError

from chorus_common.cache import schema
from chorus_common.cache.files import SceneFiles, open_files
from chorus_common.cache.names import SCHEMA_VERSION
from chorus_common.cache.schema import ArrayLayout, CacheAttributes
from chorus_common.cache.store import CheckedStore, FileRecord, load_records, record_file, remedy
from chorus_common.cameras import CameraSet
from chorus_common.features.quantise import Quantiser
from chorus_common.lifting import LiftingIndex
from chorus_common.runtime.errors import CacheError, SceneError
from chorus_common.runtime.store_path import StorePath, parse_store_path
from chorus_common.scene import GaussianScene

F32 = NDArray[np.float32]
Views = Sequence[int] | NDArray[np.integer] | slice | None

#: Runs of rows whose gap is smaller than this many entries are read as one: a chunk would be decoded for either.
_GAP_ENTRIES = 1 << 16


class SceneCache:
    """One published scene. Open it with `SceneCache.open`; it may be used after fork and pickled to another process.

    Rows of everything are in Morton order. `path`: the folder, or the place in a bucket; `attributes`: see
    schema.CacheAttributes.
    """

    def __init__(
        self, files: SceneFiles, attributes: CacheAttributes, records: dict[str, FileRecord], metadata: dict[str, Any]
    ) -> None:
        self.path = files.root
        self.attributes = attributes
        self._records = records
        self._metadata = metadata
        self._store = CheckedStore(files, records)
        self._layouts = schema.layouts(attributes)
        self._arrays: dict[str, zarr.Array] = {}
        self._indptr: NDArray[np.int64] | None = None
        self._lifted_rows: dict[str, NDArray[np.int64]] = {}

    @staticmethod
    def open(path: str | StorePath, *, check: Literal["fast", "full"] = "fast") -> SceneCache:
        """Open the store at `path`. Raises CacheError for another schema, an incomplete or damaged store, missing or
        extra arrays.

        "fast" compares the length of every file with the recorded one, the checksums of all metadata, and the arrays'
        shapes, types and encodings with the attributes. Data is checked when it is read (each chunk has a checksum);
        "full" reads every byte now.
        """
        files = open_files(parse_store_path(path))
        root = files.root
        records = load_records(files)
        metadata = _check_files(files, records)
        attributes = _parse_attributes(root, metadata)
        _check_arrays(root, attributes, records, metadata)
        cache = SceneCache(files, attributes, records, metadata)
        if check == "full":
            for name, record in records.items():
                if record_file(files, name) != record:
                    raise CacheError(f"cache {root}: {name} is damaged (checksum differs); {remedy(root)}")
            for name in cache.arrays:
                cache.check_array(name)
        return cache

    def __reduce__(self) -> Any:
        return SceneCache.open, (self.path,)

    # -- parts ---------------------------------------------------------------

    @property
    def fingerprint(self) -> str:
        """Hash of everything that changes a number of this store."""
        return self.attributes.fingerprint

    @property
    def arrays(self) -> tuple[str, ...]:
        """Paths of all arrays."""
        return tuple(self._layouts)

    @property
    def dense_teachers(self) -> dict[str, schema.DenseTeacherAttributes]:
        return self.attributes.dense_teachers

    @property
    def mask_teachers(self) -> dict[str, schema.MaskTeacherAttributes]:
        return self.attributes.mask_teachers

    @property
    def n_views(self) -> int:
        """Number of views; 0 where every teacher came lifted (`chorus-stage1 import`)."""
        return self.attributes.n_views

    def scene(self) -> GaussianScene:
        """The source scene, permuted: row r is Gaussian order[r] of the source. Values are those of the source, to the
        bit.
        """
        a = self.attributes
        columns: dict[str, Any] = {
            key: self._read(f"gaussians/{key}") for key in (*schema.REQUIRED_COLUMNS, *a.columns)
        }
        if "source_ids" not in columns:
            columns["source_ids"] = self._read("lifting/order")
        return GaussianScene(
            **columns,
            name=a.scene_name,
            label_space=a.label_space,
            render_mode=a.render_mode,
            source_rows=a.source_rows,
        )

    def cameras(self) -> CameraSet:
        """The views, in the order of the lifting index and of every teacher."""
        own = self._metadata["cameras"]["attributes"]
        try:
            return CameraSet(
                self._read("cameras/viewmats"),
                self._read("cameras/intrinsics"),
                own["width"],
                own["height"],
                tuple(own["names"]),
            )
        except (KeyError, TypeError, SceneError) as error:
            raise self._damaged("cameras", error) from None

    def lifting(self, rows: slice | NDArray[np.integer] | None = None) -> LiftingIndex:
        """The index of all rows, of a contiguous slice of rows (read without touching the others), or of ascending row
        numbers [R].
        """
        if self._indptr is None:
            self._indptr = self._read("lifting/indptr")
        indptr = self._indptr
        if rows is None:
            rows = slice(0, self.attributes.n_gaussians)
        try:
            if isinstance(rows, slice):
                a, b, step = rows.indices(self.attributes.n_gaussians)
                if step != 1:
                    raise ValueError("a slice of rows must have step 1")
                part, b = slice(indptr[a], indptr[max(a, b)]), max(a, b)
                return self._index(self._read("lifting/order", slice(a, b)), indptr[a : b + 1] - indptr[a], part)
            return self._gathered(np.asarray(rows, dtype=np.int64), indptr)
        except SceneError as error:
            raise self._damaged("lifting", error) from None

    def visibility(self) -> tuple[F32, NDArray[np.int32]]:
        """Row sums [N] f32 and number of views [N] i32 that see each Gaussian; 0 = no visibility."""
        return self._read("visibility/weight"), self._read("visibility/n_views")

    def codes(self, name: str, views: Views = None) -> NDArray[np.uint8]:
        """Quantised features [V, rows, cols, bytes] u8 of a dense teacher. Raises CacheError for one that came
        lifted.
        """
        if self._teacher(name, self.dense_teachers, "dense").lifted_rows is not None:
            raise CacheError(
                f"cache {self.path}: teacher {name} was imported with one vector per Gaussian; it has no features of "
                "views"
            )
        return self._read_views(f"teachers/{name}/codes", views)

    def features(self, name: str, views: Views = None) -> F32:
        """Standardised features [V, rows, cols, C] f32 of a dense teacher."""
        teacher = self._teacher(name, self.dense_teachers, "dense")
        features = Quantiser(teacher.bits).decode(self.codes(name, views), teacher.channels)
        return features

    def lifted_rows(self, name: str) -> NDArray[np.int64]:
        """Matrix rows [K], ascending, that have a vector of a dense teacher that came lifted. Raises CacheError for
        one that has features per view.
        """
        if self._teacher(name, self.dense_teachers, "dense").lifted_rows is None:
            raise CacheError(f"cache {self.path}: teacher {name} has features per view; lift them through the index")
        if name not in self._lifted_rows:
            self._lifted_rows[name] = self._read(f"teachers/{name}/rows")
        return self._lifted_rows[name]

    def lifted_features(
        self, name: str, rows: slice | NDArray[np.integer] | None = None
    ) -> tuple[F32, NDArray[np.bool_]]:
        """Of a dense teacher that came lifted: standardised features [R, C] f32 of all matrix rows, of a contiguous
        slice or of ascending row numbers, and which of them [R] have a vector (the others are zeros).
        """
        teacher, own = self._teacher(name, self.dense_teachers, "dense"), self.lifted_rows(name)
        wanted = np.arange(self.attributes.n_gaussians)[slice(None) if rows is None else rows]
        place = np.searchsorted(own, wanted)
        known = np.zeros(len(wanted), np.bool_)
        inside = place < len(own)
        known[inside] = own[place[inside]] == wanted[inside]
        values = np.zeros((len(wanted), teacher.channels), np.float32)
        codes = self._gathered_rows(f"teachers/{name}/codes", place[known])
        values[known] = Quantiser(teacher.bits).decode(codes, teacher.channels)
        return values, known

    def masks(self, name: str, level: str, views: Views = None) -> NDArray[np.int32]:
        """Mask ids [V, H', W'] i32 of one level, -1 = none."""
        self._level(name, level, self._teacher(name, self.mask_teachers, "mask").levels)
        return self._read_views(f"teachers/{name}/masks/{level}", views).astype(np.int32)

    def mask_embeddings(self, name: str, level: str) -> tuple[NDArray[np.int64], F32]:
        """Offsets [V + 1] and embeddings [M, E] f32: mask k of view v is row offsets[v] + k."""
        self._level(name, level, self._teacher(name, self.mask_teachers, "mask").embeddings)
        return self._read(f"teachers/{name}/offsets/{level}"), self._read(f"teachers/{name}/embeddings/{level}").astype(
            np.float32
        )

    def rgb(self, views: Views = None) -> NDArray[np.uint8]:
        """Pictures [V, H, W, 3] u8."""
        return self._read_views(self._optional("views/rgb"), views)

    def depth(self, views: Views = None) -> F32:
        """Depth [V, H, W] f32 in metres, 0 where nothing."""
        return self._read_views(self._optional("views/depth"), views).astype(np.float32)

    def check_array(self, path: str) -> None:
        """Decode every chunk of an array. Raises CacheError for the first that is damaged."""
        layout = self._layouts[path]
        step = layout.shards[0]
        for begin in range(0, layout.shape[0], step):
            self._read(path, slice(begin, begin + step))

    # -- reading ---------------------------------------------------------------

    def _read(self, path: str, rows: slice | None = None) -> NDArray[Any]:
        try:
            if path not in self._arrays:
                self._arrays[path] = zarr.open_array(self._store, path=path, mode="r", zarr_format=3)
            values = np.asarray(self._arrays[path][... if rows is None else rows])
        except (CacheError, MemoryError):
            raise
        except Exception as error:  # whatever a codec makes of damaged bytes
            raise self._damaged(path, error) from None
        layout = self._layouts[path]
        filled = False
        if values.dtype.kind == "f":
            filled = not np.isfinite(values).all()
        elif values.dtype.kind == "i":
            filled = bool((values == layout.fill_value).any())
        if filled:
            raise self._damaged(path, "a chunk is missing")
        return values

    def _read_views(self, path: str, views: Views) -> NDArray[Any]:
        n = self.attributes.n_views
        if views is None:
            return self._read(path)
        if isinstance(views, slice):
            begin, end, step = views.indices(n)
            if step == 1:
                return self._read(path, slice(begin, max(begin, end)))
            views = range(begin, end, step)
        wanted = np.asarray(views, dtype=np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= n):
            raise CacheError(f"cache {self.path}: views {wanted.min()} to {wanted.max()} asked for, it has {n}")
        out = np.empty((len(wanted), *self._layouts[path].shape[1:]), self._layouts[path].dtype)
        for begin, end in _runs(wanted):
            out[begin:end] = self._read(path, slice(int(wanted[begin]), int(wanted[end - 1]) + 1))
        return out

    def _index(self, order: NDArray[Any], indptr: NDArray[np.int64], part: slice) -> LiftingIndex:
        weights = self._read("lifting/data", part).astype(np.float32)
        a = self.attributes
        return LiftingIndex(order, indptr, self._read("lifting/indices", part), weights, a.grid.grid, a.n_views)

    def _gathered(self, rows: NDArray[np.int64], indptr: NDArray[np.int64]) -> LiftingIndex:
        """Rows in ascending order: neighbours are read together, gaps smaller than a chunk along with them."""
        if len(rows) == 0:
            return self.lifting(slice(0, 0))
        if (np.diff(rows) <= 0).any() or rows[0] < 0 or rows[-1] >= self.attributes.n_gaussians:
            raise ValueError("rows must be ascending, distinct and within the scene")
        gaps = indptr[rows[1:]] - indptr[rows[:-1] + 1]
        edges = np.concatenate([[0], np.flatnonzero(gaps > _GAP_ENTRIES) + 1, [len(rows)]])
        lengths = indptr[rows + 1] - indptr[rows]
        pointers = np.concatenate([[0], np.cumsum(lengths)])
        order = np.empty(len(rows), np.int64)
        columns, weights = np.empty(pointers[-1], np.int32), np.empty(pointers[-1], np.float32)
        for begin, end in itertools.pairwise(edges):
            chosen = rows[begin:end]
            first, last = int(chosen[0]), int(chosen[-1]) + 1
            keep = np.repeat(np.isin(np.arange(first, last), chosen), np.diff(indptr[first : last + 1]))
            part, into = slice(indptr[first], indptr[last]), slice(pointers[begin], pointers[end])
            columns[into] = self._read("lifting/indices", part)[keep]
            weights[into] = self._read("lifting/data", part)[keep]
            order[begin:end] = self._read("lifting/order", slice(first, last))[chosen - first]
        return LiftingIndex(order, pointers, columns, weights, self.attributes.grid.grid, self.attributes.n_views)

    def _gathered_rows(self, path: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Entries [R, ...] of ascending `rows`; gaps smaller than a chunk are read along."""
        layout = self._layouts[path]
        out = np.empty((len(rows), *layout.shape[1:]), layout.dtype)
        edges = np.concatenate([[0], np.flatnonzero(np.diff(rows) > layout.chunks[0]) + 1, [len(rows)]])
        for begin, end in itertools.pairwise(edges):
            if end > begin:
                first = int(rows[begin])
                part = self._read(path, slice(first, int(rows[end - 1]) + 1))
                out[begin:end] = part[rows[begin:end] - first]
        return out

    def _teacher(self, name: str, teachers: dict[str, Any], kind: str) -> Any:
        if name not in teachers:
            raise CacheError(
                f"cache {self.path}: no {kind} teacher '{name}'; it has {', '.join(sorted(teachers)) or 'none'}"
            )
        return teachers[name]

    def _level(self, name: str, level: str, levels: Iterable[str]) -> None:
        if level not in levels:
            raise CacheError(
                f"cache {self.path}: teacher {name} has no level '{level}' there; it has {', '.join(levels) or 'none'}"
            )

    def _optional(self, path: str) -> str:
        if path not in self._layouts:
            raise CacheError(f"cache {self.path}: holds no {path}; run stage 1 again with it switched on")
        return path

    def _damaged(self, what: str, why: object) -> CacheError:
        reason = " ".join(str(why).split())[:200] or type(why).__name__
        return CacheError(f"cache {self.path}: {what} is damaged ({reason}); {remedy(self.path)}")


def _runs(views: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ranges of positions whose views follow each other."""
    edges = np.concatenate([[0], np.flatnonzero(np.diff(views) != 1) + 1, [len(views)]])
    return [(int(a), int(b)) for a, b in itertools.pairwise(edges) if b > a]


def _check_files(files: SceneFiles, records: dict[str, FileRecord]) -> dict[str, Any]:
    """Lengths of all files, checksums of metadata, nothing extra. Returns the parsed zarr.json by path of its group or
    array. Of a web server, which does not list, the checksums alone; those of data are compared when it is read.
    """
    root = files.root
    if files.lists:
        _check_sizes(root, files.sizes(), records)
    names = [name for name in records if name.endswith("zarr.json")]
    try:
        texts = files.read_many(names)
    except OSError as error:
        raise CacheError(f"cache {root}: {error.filename} cannot be read ({error.strerror}); {remedy(root)}") from None
    metadata = {}
    for name, text in zip(names, texts):
        if google_crc32c.value(text) != records[name].crc32c:
            raise CacheError(f"cache {root}: {name} is damaged (checksum differs); {remedy(root)}")
        metadata[name.removesuffix("zarr.json").rstrip("/")] = json.loads(text)
    return metadata


def _check_sizes(root: StorePath, sizes: dict[str, int], records: dict[str, FileRecord]) -> None:
    for name, record in records.items():
        if name not in sizes:
            raise CacheError(f"cache {root}: {name} is missing; {remedy(root)}")
        if sizes[name] != record.size:
            raise CacheError(f"cache {root}: {name} has {sizes[name]} bytes instead of {record.size}; {remedy(root)}")
    for name in sorted(sizes):
        if name not in records and name != schema.FILES and not name.rpartition("/")[2].startswith("."):
            raise CacheError(f"cache {root}: {name} does not belong to the store; {remedy(root)}")


def _parse_attributes(root: StorePath, metadata: dict[str, Any]) -> CacheAttributes:
    try:
        found = metadata[""]["attributes"]["chorus"]
        if found["schema_version"] != SCHEMA_VERSION:
            raise CacheError(
                f"cache {root}: schema version {found['schema_version']!r}, this program reads "
                f"{SCHEMA_VERSION}; {remedy(root)}"
            )
        return CacheAttributes.model_validate(found)
    except (KeyError, TypeError) as error:
        raise CacheError(f"cache {root}: has no attributes of ours ({error}); {remedy(root)}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CacheError(f"cache {root}: attribute '{where}': {first['msg']}; {remedy(root)}") from None


def _check_arrays(
    root: StorePath, attributes: CacheAttributes, records: dict[str, FileRecord], metadata: dict[str, Any]
) -> None:
    """Every array that the attributes announce is there, encoded as the schema says, with all of its shards; and no
    other.
    """
    expected = schema.layouts(attributes)
    present = {path for path, content in metadata.items() if content.get("node_type") == "array"}
    for path in sorted(set(expected) ^ present):
        raise CacheError(
            f"cache {root}: array {path} is {'missing' if path in expected else 'not announced'}; {remedy(root)}"
        )
    wanted = {f"{path}/zarr.json".lstrip("/") for path in (*expected, *schema.groups(expected))}
    for path, layout in expected.items():
        try:
            found = ArrayLayout.from_metadata(metadata[path])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CacheError(
                f"cache {root}: array {path} is not encoded as expected ({error}); {remedy(root)}"
            ) from None
        if found != layout:
            raise CacheError(
                f"cache {root}: array {path} is {found.dtype} {found.shape}, expected {layout.dtype} "
                f"{layout.shape}; {remedy(root)}"
            )
        wanted |= {f"{path}/{key}" for key in layout.chunk_keys}
    for name in sorted(wanted ^ set(records)):
        raise CacheError(
            f"cache {root}: {name} is {'missing' if name in wanted else 'not part of the schema'}; {remedy(root)}"
        )
