"""Write one scene's store: all of it, or nothing that a reader could take for it.

Everything goes into a sibling folder `.tmp-<uuid>`; `publish` checks that every array is complete, records each file's length and checksum, syncs
files and folders to disk and renames the folder once. A crash leaves only the temporary folder, which `sweep_orphans` removes later.
The same content gives the same bytes: no times, no random names inside, sorted JSON.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

from chorus_common.atomic import fsync_directory
from chorus_common.cache import schema
from chorus_common.cache.schema import (
    ArrayLayout,
    CacheAttributes,
    DenseTeacherAttributes,
    MaskTeacherAttributes,
    SceneHeader,
)
from chorus_common.cache.store import dump_records, list_files, record_file
from chorus_common.cameras import CameraSet
from chorus_common.errors import CacheError
from chorus_common.lifting import LiftingIndex
from chorus_common.quantise import Bits, Quantiser
from chorus_common.scene import GaussianScene

#: Bits of mantissa kept of a lifting weight: a relative error of at most 2^-6. Measured in docs/cache.md.
WEIGHT_MANTISSA_BITS = 5
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class SceneCacheWriter:
    """Context manager that writes the store at `final_path` (`<store>/<dataset>/<scene_id>.zarr`).

        with SceneCacheWriter(path, header) as writer:
            writer.put_gaussians(scene, index.order); writer.put_cameras(cameras); writer.put_lifting(index); writer.put_evidence(*index.evidence())
            teacher = writer.add_dense_teacher("clip", ...)
            teacher.append(standardised)            # any number of views at a time
            published = writer.publish()            # False: another process was first, and its store stays

    Leaving the block without `publish`, or by an exception, removes the temporary folder. Raises CacheError, also for a full disk.
    """

    def __init__(self, final_path: str | Path, header: SceneHeader) -> None:
        self._final = Path(final_path)
        self._header = header
        self._draft: dict[str, Any] = {}
        self._dense: dict[str, DenseTeacherWriter] = {}
        self._masks: dict[str, MaskTeacherWriter] = {}
        self._written: dict[str, ArrayLayout] = {}
        self._temporary: Path | None = None
        self._lock = -1

    # -- life ---------------------------------------------------------------------------------------------------------------------------

    def __enter__(self) -> SceneCacheWriter:
        self._final.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = self._final.parent / f"{schema.TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        self._temporary.mkdir()
        self._lock = os.open(self._temporary, os.O_RDONLY)
        with contextlib.suppress(
            OSError
        ):  # some network file systems have no locks; age alone then protects from the sweep
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._store = LocalStore(self._temporary)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            raise CacheError(
                f"scene {self.scene_id}: disk full while writing {self._final}; free some space and run the same command again"
            ) from error

    def _discard(self) -> None:
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def scene_id(self) -> str:
        return self._header.scene_id

    # -- parts --------------------------------------------------------------------------------------------------------------------------

    def put_gaussians(self, scene: GaussianScene, order: NDArray[np.integer]) -> None:
        """All Gaussians of `scene`, stored in Morton order: row r is Gaussian order[r]."""
        if not np.array_equal(np.sort(order), np.arange(len(scene))):
            raise CacheError(f"scene {self.scene_id}: order is not a permutation of its {len(scene)} Gaussians")
        rows = scene.select(np.asarray(order))
        optional = [key for key in ("normals", "labels", "instances", "parts") if getattr(rows, key) is not None]
        if not np.array_equal(rows.source_ids, order):  # as a rule they are equal, and `lifting/order` has them already
            optional.append("source_ids")
        arrays = schema.gaussian_layouts(len(scene), tuple(optional))
        for path, layout in arrays.items():
            self._put(path, layout, getattr(rows, path.rpartition("/")[2]))
        self._draft |= {
            "n_gaussians": len(scene),
            "columns": optional,
            "scene_name": scene.name,
            "label_space": scene.label_space,
        }

    def put_cameras(self, cameras: CameraSet) -> None:
        """The views, in the order of the lifting index and of every teacher."""
        for path, layout in schema.camera_layouts(len(cameras)).items():
            self._put(path, layout, getattr(cameras, path.rpartition("/")[2]))
        self._cameras = {"names": list(cameras.names), "width": cameras.width, "height": cameras.height}
        self._draft["n_views"] = len(cameras)

    def put_lifting(self, index: LiftingIndex) -> None:
        """The index, its weights rounded to WEIGHT_MANTISSA_BITS."""
        expected = self._header.grid.grid
        if index.grid != expected:
            raise CacheError(
                f"scene {self.scene_id}: lifting index has grid {index.grid}, the store's header says {expected}"
            )
        weights = round_weights(index.weights)
        values = {"order": index.order, "indptr": index.indptr, "indices": index.columns, "data": weights}
        for path, layout in schema.lifting_layouts(len(index), len(index.columns)).items():
            self._put(path, layout, values[path.rpartition("/")[2]])
        exact = index.weights.astype(np.float64)
        error = np.abs(weights - exact) / np.maximum(exact, 2.0**-14)  # below fp16's normal range the error is absolute
        self._draft |= {"nnz": len(index.columns), "weight_error": float(f"{error.max(initial=0.0):.3g}")}
        self._lifting_shape = [len(index), index.n_columns]

    def put_evidence(self, weight: NDArray[np.floating], n_views: NDArray[np.integer]) -> None:
        """Row sums [N] of the index and number of views [N] that see each Gaussian, in Morton order."""
        for path, layout in schema.evidence_layouts(len(weight)).items():
            self._put(path, layout, weight if path.endswith("weight") else n_views)
        self._draft["coverage"] = float(f"{np.mean(np.asarray(weight) > 0) if len(weight) else 0.0:.6g}")

    def add_dense_teacher(
        self,
        name: str,
        *,
        spec: str,
        fingerprint: str,
        channels: int,
        basis: str,
        bits: Bits = 4,
        text_aligned: bool = False,
    ) -> DenseTeacherWriter:
        """A dense teacher whose standardised features follow by `append`, views in order. `basis`: TeacherBasis.fingerprint."""
        attributes = DenseTeacherAttributes(
            spec=spec, fingerprint=fingerprint, channels=channels, bits=bits, basis=basis, text_aligned=text_aligned
        )
        self._new_teacher(name)
        self._dense[name] = DenseTeacherWriter(self, name, attributes)
        return self._dense[name]

    def add_mask_teacher(
        self, name: str, *, spec: str, fingerprint: str, levels: Iterable[str], height: int, width: int
    ) -> MaskTeacherWriter:
        """A mask teacher whose pictures of ids follow by `append`, views in order."""
        attributes = MaskTeacherAttributes(
            spec=spec, fingerprint=fingerprint, levels=tuple(levels), height=height, width=width
        )
        self._new_teacher(name)
        self._masks[name] = MaskTeacherWriter(self, name, attributes)
        return self._masks[name]

    def put_rgb(self, batches: NDArray[np.uint8] | Iterable[NDArray[np.uint8]]) -> None:
        """Pictures [V, H, W, 3] u8, whole or in batches of views."""
        self._draft["rgb"] = self._put_views("views/rgb", batches, "uint8")

    def put_depth(self, batches: NDArray[np.floating] | Iterable[NDArray[np.floating]]) -> None:
        """Depth [V, H, W] in metres (stored as fp16, 0 where nothing), whole or in batches of views."""
        self._draft["depth"] = self._put_views("views/depth", batches, "float16")

    # -- publishing ---------------------------------------------------------------------------------------------------------------------

    def publish(self) -> bool:
        """Check, sync and rename. True: the store is in place; False: another process had published it before, which is left as it is."""
        root = self._root
        attributes = self._finished_attributes()
        expected = schema.layouts(attributes)
        if missing := sorted(set(expected) - set(self._written)):
            raise CacheError(f"scene {self.scene_id}: cannot publish, {', '.join(missing)} was never written")
        for path, layout in self._written.items():
            if expected.get(path) != layout:
                raise CacheError(
                    f"scene {self.scene_id}: cannot publish, {path} is {layout}, expected {expected.get(path)}"
                )
            array = zarr.open_array(self._store, path=path, mode="r", zarr_format=3)
            if array.nchunks_initialized != array.nchunks:
                raise CacheError(
                    f"scene {self.scene_id}: cannot publish, {path} has {array.nchunks_initialized} of {array.nchunks} chunks"
                )
        own: dict[str, Mapping[str, Any]] = {
            "": {"chorus": attributes.model_dump(mode="json")},
            "cameras": self._cameras,
            "lifting": {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": self._lifting_shape},
        }
        for path in schema.groups(expected):
            metadata = {"zarr_format": 3, "node_type": "group", "attributes": own.get(path, {})}
            (root / path / "zarr.json").write_text(
                json.dumps(metadata, indent=2, sort_keys=True) + "\n", encoding="utf-8"
            )
        files = list_files(root)
        wanted = {f"{path}/{key}" for path, layout in expected.items() for key in ("zarr.json", *layout.chunk_keys)}
        wanted |= {f"{path}/zarr.json".lstrip("/") for path in schema.groups(expected)}
        if set(files) != wanted:
            raise CacheError(
                f"scene {self.scene_id}: cannot publish, files differ from the schema: {sorted(set(files) ^ wanted)[:3]}"
            )
        (root / schema.FILES).write_bytes(dump_records({name: record_file(root / name) for name in files}))
        _sync_tree(root)
        try:
            os.rename(root, self._final)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            self._discard()
            return False
        self._temporary = None
        self._discard()
        fsync_directory(self._final.parent)
        return True

    def _finished_attributes(self) -> CacheAttributes:
        for part, key in (
            ("gaussians", "n_gaussians"),
            ("cameras", "n_views"),
            ("lifting", "nnz"),
            ("evidence", "coverage"),
        ):
            if key not in self._draft:
                raise CacheError(f"scene {self.scene_id}: cannot publish, {part} was never written")
        views = self._draft["n_views"]
        return CacheAttributes(
            **self._header.model_dump(),
            **self._draft,
            dense_teachers={name: teacher.finish(views) for name, teacher in sorted(self._dense.items())},
            mask_teachers={name: teacher.finish(views) for name, teacher in sorted(self._masks.items())},
        )

    # -- arrays -------------------------------------------------------------------------------------------------------------------------

    @property
    def _root(self) -> Path:
        if self._temporary is None:
            raise CacheError(f"scene {self.scene_id}: the writer is used outside its `with` block, or after publish")
        return self._temporary

    def create(self, path: str, layout: ArrayLayout) -> zarr.Array:
        """A new array of this store. For the teachers' writers."""
        if path in self._written:
            raise CacheError(f"scene {self.scene_id}: {path} is written twice")
        _ = self._root
        compressor = (
            ZstdCodec(level=1) if layout.codec == "zstd" else BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle")
        )
        array = zarr.create_array(
            self._store, name=path, shape=layout.shape, dtype=layout.dtype, chunks=layout.chunks, shards=layout.shards,
            compressors=[compressor, Crc32cCodec()], filters=None, fill_value=layout.fill_value, zarr_format=3,
            config={"write_empty_chunks": True},
        )  # fmt: skip
        self._written[path] = layout
        return array

    def _put(self, path: str, layout: ArrayLayout, values: NDArray[Any]) -> None:
        if values.shape != layout.shape:
            raise CacheError(f"scene {self.scene_id}: {path} has shape {values.shape}, expected {layout.shape}")
        stored = self.checked(path, values, layout)
        self.create(path, layout)[...] = stored

    def checked(self, path: str, values: NDArray[Any], layout: ArrayLayout) -> NDArray[Any]:
        """`values` in the array's type, which must hold them without touching the fill value. For the teachers' writers."""
        dtype = np.dtype(layout.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            stored = np.asarray(values).astype(dtype, copy=False)
        if dtype.kind == "f" and not np.isfinite(stored).all():
            raise CacheError(f"scene {self.scene_id}: {path} holds values that are not finite in {dtype}")
        if (
            dtype.kind == "i"
            and stored.size
            and ((stored == layout.fill_value).any() or not np.array_equal(stored, values))
        ):
            raise CacheError(f"scene {self.scene_id}: {path} holds values outside {dtype}")
        if dtype.kind == "u" and np.asarray(values).dtype != dtype:
            raise CacheError(f"scene {self.scene_id}: {path} must be {dtype}, got {np.asarray(values).dtype}")
        return stored

    def _put_views(self, path: str, batches: Any, dtype: str) -> tuple[int, int]:
        views = self.n_views(path)
        stream: ViewStream | None = None
        for batch in [batches] if isinstance(batches, np.ndarray) else batches:
            if stream is None:
                stream = ViewStream(self, path, schema.view_layout((views, *batch.shape[1:]), dtype, "bitshuffle"))
            stream.append(batch)
        if stream is None:
            raise CacheError(f"scene {self.scene_id}: {path} got no pictures")
        stream.finish()
        return stream.layout.shape[1], stream.layout.shape[2]

    def n_views(self, path: str) -> int:
        """Number of views, which the cameras give. For the teachers' writers."""
        if "n_views" not in self._draft:
            raise CacheError(f"scene {self.scene_id}: write the cameras before {path}")
        return int(self._draft["n_views"])

    def _new_teacher(self, name: str) -> None:
        if name in self._dense or name in self._masks:
            raise CacheError(f"scene {self.scene_id}: teacher {name} is added twice")


class ViewStream:
    """Appends batches of views to an array, a whole shard at a time: a partly written shard would be read and written again."""

    def __init__(self, writer: SceneCacheWriter, path: str, layout: ArrayLayout) -> None:
        self.layout, self._path, self._writer = layout, path, writer
        self._array = writer.create(path, layout)
        self._held: list[NDArray[Any]] = []
        self._done = 0

    def append(self, batch: NDArray[Any]) -> None:
        """Views [B, ...]."""
        _, *rest = self.layout.shape
        if list(batch.shape[1:]) != rest:
            raise CacheError(
                f"scene {self._writer.scene_id}: {self._path} got views of shape {batch.shape[1:]}, expected {tuple(rest)}"
            )
        if self._count + len(batch) > self.layout.shape[0]:
            raise CacheError(
                f"scene {self._writer.scene_id}: {self._path} got more than the {self.layout.shape[0]} views of the cameras"
            )
        # a copy: the caller may reuse its buffer
        self._held.append(np.array(self._writer.checked(self._path, batch, self.layout)))
        shard = self.layout.shards[0]
        if sum(map(len, self._held)) >= shard:
            views = np.concatenate(self._held)
            whole = len(views) // shard * shard
            self._write(views[:whole])
            self._held = [views[whole:]]

    def finish(self) -> None:
        """Write the rest. Raises CacheError where views are missing."""
        if self._count != self.layout.shape[0]:
            raise CacheError(
                f"scene {self._writer.scene_id}: {self._path} got {self._count} of {self.layout.shape[0]} views"
            )
        self._write(
            np.concatenate(self._held) if self._held else np.empty((0, *self.layout.shape[1:]), self.layout.dtype)
        )
        self._held = []

    @property
    def _count(self) -> int:
        return self._done + sum(map(len, self._held))

    def _write(self, views: NDArray[Any]) -> None:
        if len(views):
            self._array[self._done : self._done + len(views)] = views
            self._done += len(views)


class DenseTeacherWriter:
    """Quantises and appends the features of one dense teacher."""

    def __init__(self, writer: SceneCacheWriter, name: str, attributes: DenseTeacherAttributes) -> None:
        path = f"teachers/{name}/codes"
        self._writer, self._name, self._attributes = writer, name, attributes
        self._quantiser = Quantiser(attributes.bits)
        grid = writer._header.grid.grid
        self._stream = ViewStream(writer, path, schema.codes_layout(writer.n_views(path), grid, attributes))
        self._cosines: list[NDArray[np.float32]] = []

    def append(self, standardised: NDArray[np.floating]) -> None:
        """Standardised features [B, rows, cols, C] of the next B views."""
        channels = self._attributes.channels
        if standardised.shape[-1] != channels:
            raise CacheError(
                f"scene {self._writer.scene_id}: teacher {self._name} gave {standardised.shape[-1]} channels, expected {channels}"
            )
        try:
            codes = self._quantiser.encode(standardised)
        except ValueError as error:
            raise CacheError(f"scene {self._writer.scene_id}: teacher {self._name}: {error}") from None
        for exact, packed in zip(standardised, codes):  # view by view: the decoded features are eight times the codes
            self._cosines.append(_cosine(exact, self._quantiser.decode(packed, channels)))
        self._stream.append(codes)

    def finish(self, views: int) -> DenseTeacherAttributes:
        """Write the rest; the attributes with the measured error."""
        self._stream.finish()
        cosines = np.concatenate(self._cosines) if self._cosines else np.ones(1, np.float32)
        mean, low = float(cosines.mean(dtype=np.float64)), float(np.percentile(cosines, 1))
        return self._attributes.model_copy(
            update={"token_cosine_mean": round(mean, 5), "token_cosine_p01": round(low, 5)}
        )


class MaskTeacherWriter:
    """Appends the pictures of ids of one mask teacher."""

    def __init__(self, writer: SceneCacheWriter, name: str, attributes: MaskTeacherAttributes) -> None:
        self._writer, self._name, self._attributes = writer, name, attributes
        views = writer.n_views(f"teachers/{name}")
        arrays = schema.mask_layouts(views, name, attributes)
        self._streams = {
            level: ViewStream(writer, f"teachers/{name}/masks/{level}", arrays[f"teachers/{name}/masks/{level}"])
            for level in attributes.levels
        }
        self._embeddings: dict[str, tuple[int, int]] = {}

    def append(self, masks: Mapping[str, NDArray[np.integer]]) -> None:
        """Ids of every level, [H, W] of one view or [B, H, W] of several; -1 = none."""
        if set(masks) != set(self._streams):
            raise CacheError(
                f"scene {self._writer.scene_id}: teacher {self._name} gave levels {sorted(masks)}, expected {sorted(self._streams)}"
            )
        for level, ids in masks.items():
            if ids.size and int(ids.min()) < -1:
                raise CacheError(
                    f"scene {self._writer.scene_id}: teacher {self._name} gave mask id {ids.min()}; ids are -1 (none) or more"
                )
            self._streams[level].append(ids[None] if ids.ndim == 2 else ids)

    def put_embeddings(self, level: str, offsets: NDArray[np.integer], values: NDArray[np.floating]) -> None:
        """One embedding per mask: values [M, E]; mask k of view v is row offsets[v] + k; offsets [V + 1]."""
        shape = (len(values), values.shape[1])
        self._embeddings[level] = shape
        attributes = self._attributes.model_copy(update={"embeddings": {level: shape}})
        arrays = schema.mask_layouts(self._writer.n_views(level), self._name, attributes)
        for kind, array in (("embeddings", values), ("offsets", offsets)):
            path = f"teachers/{self._name}/{kind}/{level}"
            self._writer._put(path, arrays[path], array)

    def finish(self, views: int) -> MaskTeacherAttributes:
        """Write the rest; the finished attributes."""
        for stream in self._streams.values():
            stream.finish()
        return self._attributes.model_copy(update={"embeddings": dict(sorted(self._embeddings.items()))})


def round_weights(weights: NDArray[np.floating], mantissa_bits: int = WEIGHT_MANTISSA_BITS) -> NDArray[np.float16]:
    """fp16 weights rounded to `mantissa_bits` (ties away from zero), so that the shuffled zero bits compress to nothing.

    Relative error at most 2^-(mantissa_bits + 1) within fp16's normal range (6e-5 to 65504). Weights that would become 0 get the smallest kept
    value: a Gaussian that was seen stays seen.
    """
    drop = 10 - mantissa_bits
    bits = np.minimum(np.asarray(weights, np.float32), 65504.0).astype("<f2").view("<u2").astype(np.uint32)
    bits = (bits + (1 << drop >> 1)) >> drop << drop
    bits = np.where((bits == 0) & (np.asarray(weights) > 0), 1 << drop, bits)
    return np.minimum(bits, 0x7BFF >> drop << drop).astype("<u2").view(np.float16)


def sweep_orphans(folder: str | Path, *, older_than: float) -> list[Path]:
    """Remove temporary folders in `folder` that nothing was written to since `older_than` (seconds since the epoch) and nobody holds open.

    Pass the start of the job, so that writers of this job are safe even where the file system has no locks. Returns what was removed.
    """
    removed = []
    for path in sorted(Path(folder).glob(f"{schema.TEMPORARY_PREFIX}*")):
        if not path.is_dir() or path.is_symlink() or _newest(path) >= older_than:
            continue
        try:
            lock = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
        except OSError:  # its writer lives
            pass
        finally:
            os.close(lock)
    return removed


def _newest(root: Path) -> float:
    times = [root.stat().st_mtime]
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            with contextlib.suppress(OSError):
                times.append(os.lstat(os.path.join(folder, name)).st_mtime)
    return max(times)


def _sync_tree(root: Path) -> None:
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            fsync_directory(Path(folder, name))  # fsync works alike for a file
        fsync_directory(Path(folder))


def _cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float32]:
    """Cosines between the tokens of a and b [..., C], flat; 1 where both are zero."""
    x, y = a.reshape(-1, a.shape[-1]).astype(np.float32), b.reshape(-1, b.shape[-1]).astype(np.float32)
    dot, xx, yy = (np.einsum("tc,tc->t", p, q) for p, q in ((x, y), (x, x), (y, y)))
    norm = np.sqrt(xx * yy)
    return np.where(norm > 0, dot / np.maximum(norm, 1e-30), np.where(xx == yy, 1.0, 0.0)).astype(np.float32)
