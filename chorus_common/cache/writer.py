"""Write one scene's store: all of it, or nothing that a reader could take for it.

Everything goes into a sibling folder `.tmp-<uuid>`; `publish` checks that every array is complete, records each file's
length and checksum, syncs files and folders to disk and renames the folder once. A crash leaves only the temporary
folder, which `sweep_orphans` removes later. The same content gives the same bytes: no times, no random names inside,
sorted JSON.
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
from zarr.codecs.numcodecs import Delta
from zarr.storage import LocalStore

from chorus_common.cache import schema
from chorus_common.cache.files import FolderFiles
from chorus_common.cache.names import TEMPORARY_PREFIX
from chorus_common.cache.prune import DROPPED_SHARE, prune_index
from chorus_common.cache.publish import publish_folder, scratch_folder
from chorus_common.cache.schema import (
    ArrayLayout,
    CacheAttributes,
    DenseTeacherAttributes,
    EmbeddingSource,
    MaskTeacherAttributes,
    SceneHeader,
)
from chorus_common.cache.store import dump_records, list_files, record_file
from chorus_common.cache.streams import DenseTeacherWriter, MaskTeacherWriter, ViewStream
from chorus_common.cameras import CameraSet
from chorus_common.features.quantise import Bits
from chorus_common.lifting import LiftingIndex
from chorus_common.runtime.errors import CacheError
from chorus_common.runtime.store_path import StorePath, parse_store_path
from chorus_common.scene import GaussianScene

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class SceneCacheWriter:
    """Context manager that writes the store at `final_path` (`<store>/<dataset>/<scene_id>.zarr`). A store in a
    bucket is made in `scratch_folder` and uploaded when it is complete.

        with SceneCacheWriter(path, header) as writer:
            writer.put_gaussians(scene, index.order)
            writer.put_cameras(cameras)
            writer.put_lifting(index)
            writer.put_visibility(*index.visibility())
            teacher = writer.add_dense_teacher("clip", ...)
            teacher.append(standardised)  # any number of views at a time
            published = writer.publish()  # False: another process was first, and its store stays

    Leaving the block without `publish`, or by an exception, removes the temporary folder. Raises CacheError, also for a
    full disk.
    """

    def __init__(self, final_path: str | StorePath, header: SceneHeader) -> None:
        self._final = parse_store_path(final_path)
        self._header = header
        self._draft: dict[str, Any] = {}
        self._dense: dict[str, DenseTeacherWriter] = {}
        self._masks: dict[str, MaskTeacherWriter] = {}
        self._last_rows: dict[str, int] = {}  # of teachers that come lifted
        self._written: dict[str, ArrayLayout] = {}
        self._temporary: Path | None = None
        self._lock = -1

    # -- life ---------------------------------------------------------------

    def __enter__(self) -> SceneCacheWriter:
        folder = scratch_folder(self._final)
        folder.mkdir(parents=True, exist_ok=True)
        self._temporary = folder / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
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
                f"scene {self.scene_id}: disk full while writing {self._final}; free some space and run the same "
                "command again"
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

    # -- parts ---------------------------------------------------------------

    def put_gaussians(self, scene: GaussianScene, order: NDArray[np.integer]) -> None:
        """All Gaussians of `scene`, stored in Morton order: row r is Gaussian order[r]."""
        if not np.array_equal(np.sort(order), np.arange(len(scene))):
            raise CacheError(f"scene {self.scene_id}: order is not a permutation of its {len(scene)} Gaussians")
        rows = scene.select(np.asarray(order))
        optional = [key for key in schema.OPTIONAL_COLUMNS if getattr(rows, key) is not None]
        if not np.array_equal(rows.source_ids, order):  # as a rule they are equal, and `lifting/order` has them already
            optional.append("source_ids")
        arrays = schema.gaussian_layouts(len(scene), tuple(optional))
        for path, layout in arrays.items():
            self._put(path, layout, getattr(rows, path.rpartition("/")[2]))
        self._draft |= {
            "n_gaussians": len(scene),
            "source_rows": 0 if scene.source_rows == len(scene) else scene.source_rows,
            "columns": optional,
            "scene_name": scene.name,
            "label_space": scene.label_space,
            "render_mode": scene.render_mode,
        }

    def put_cameras(self, cameras: CameraSet) -> None:
        """The views, in the order of the lifting index and of every teacher."""
        for path, layout in schema.camera_layouts(len(cameras)).items():
            self._put(path, layout, getattr(cameras, path.rpartition("/")[2]))
        grid = self._header.grid
        width, height = (cameras.width, cameras.height) if len(cameras) else (grid.width, grid.height)
        self._cameras = {"names": list(cameras.names), "width": width, "height": height}
        self._draft["n_views"] = len(cameras)

    def put_no_views(self, order: NDArray[np.integer]) -> None:
        """In place of cameras and index, for a scene whose teachers all came lifted: no view, a matrix without entries.

        order [N]: which Gaussian each row is, in Morton order.
        """
        n, grid = len(order), self._header.grid
        self.put_cameras(CameraSet(np.empty((0, 4, 4)), np.empty((0, 3, 3)), grid.width, grid.height, ()))
        empty = np.empty(0, np.int32), np.empty(0, np.float32)
        self.put_lifting(LiftingIndex(np.asarray(order), np.zeros(n + 1, np.int64), *empty, grid.grid, 0))

    def put_lifting(self, index: LiftingIndex, *, dropped_share: float = DROPPED_SHARE) -> None:
        """The index, made small (prune.py): up to `dropped_share` of each Gaussian's weight is left out, and the
        weights that stay are rounded.
        """
        expected = self._header.grid.grid
        if index.grid != expected:
            raise CacheError(
                f"scene {self.scene_id}: lifting index has grid {index.grid}, the store's header says {expected}"
            )
        pruned = prune_index(index, dropped_share)
        values: dict[str, NDArray[Any]] = {
            "order": index.order, "indptr": pruned.indptr, "indices": pruned.columns, "data": pruned.weights,
        }  # fmt: skip
        for path, layout in schema.lifting_layouts(len(index), len(pruned.columns)).items():
            self._put(path, layout, values[path.rpartition("/")[2]])
        errors = {"dropped_weight": pruned.dropped, "weight_error": pruned.rounding}
        self._draft |= {"nnz": len(pruned.columns)} | {key: float(f"{value:.3g}") for key, value in errors.items()}
        self._lifting_shape = [len(index), index.n_columns]

    def put_visibility(self, weight: NDArray[np.floating], n_views: NDArray[np.integer]) -> None:
        """Row sums [N] of the index and number of views [N] that see each Gaussian, in Morton order."""
        for path, layout in schema.visibility_layouts(len(weight)).items():
            self._put(path, layout, weight if path.endswith("weight") else n_views)
        self._draft["coverage"] = float(f"{np.mean(np.asarray(weight) > 0) if len(weight) else 0.0:.6g}")

    def put_measures(self, measures: Mapping[str, float]) -> None:
        """Figures measured while the scene was made, by name; they are kept in the attributes."""
        self._draft["measures"] = {name: float(f"{value:.6g}") for name, value in sorted(measures.items())}

    def add_dense_teacher(
        self,
        name: str,
        *,
        spec: str,
        fingerprint: str,
        channels: int,
        standardiser: str,
        bits: Bits = "ecsq",
        text_aligned: bool = False,
        rows: NDArray[np.integer] | None = None,
    ) -> DenseTeacherWriter:
        """A dense teacher whose standardised features follow by `append`, views in order.

        standardiser: PhiSStandardiser.fingerprint. rows [K]: of a teacher that comes lifted, the rows of Morton order
        that have a vector, ascending; the vectors then follow in this order. Such a teacher needs no cameras.
        """
        attributes = DenseTeacherAttributes(
            spec=spec,
            fingerprint=fingerprint,
            channels=channels,
            bits=bits,
            standardiser=standardiser,
            text_aligned=text_aligned,
            lifted_rows=None if rows is None else len(rows),
        )
        self._new_teacher(name)
        if rows is not None:
            if len(rows) and (rows[0] < 0 or (np.diff(rows) <= 0).any()):
                raise CacheError(f"scene {self.scene_id}: rows of teacher {name} must ascend from 0 on")
            self._last_rows[name] = int(rows[-1]) if len(rows) else -1
            self._put(f"teachers/{name}/rows", schema.row_layout(len(rows), "int64"), np.asarray(rows, np.int64))
        self._dense[name] = DenseTeacherWriter(self, name, attributes)
        return self._dense[name]

    def add_mask_teacher(
        self,
        name: str,
        *,
        spec: str,
        fingerprint: str,
        levels: Iterable[str],
        height: int,
        width: int,
        embedded_by: EmbeddingSource | None = None,
    ) -> MaskTeacherWriter:
        """A mask teacher whose pictures of ids follow by `append`, views in order, and where `embedded_by` says whose
        they are, embeddings of every level by `put_embeddings`.
        """
        attributes = MaskTeacherAttributes(
            spec=spec,
            fingerprint=fingerprint,
            levels=tuple(levels),
            height=height,
            width=width,
            embedded_by=embedded_by,
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

    # -- publishing ---------------------------------------------------------------

    def publish(self) -> bool:
        """Check, sync and rename. True: the store is in place; False: another process had published it before, which is
        left as it is.
        """
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
        if set(files) != wanted:  # each shard is one file, so this is also the check that no chunk is missing
            raise CacheError(
                f"scene {self.scene_id}: cannot publish, files differ from the schema: "
                f"{sorted(set(files) ^ wanted)[:3]}"
            )
        records = {name: record_file(FolderFiles(root), name) for name in files}
        if empty := [name for name, record in records.items() if record.size == 0]:
            raise CacheError(f"scene {self.scene_id}: cannot publish, {empty[0]} is empty")
        (root / schema.FILES).write_bytes(dump_records(records))
        published = publish_folder(root, self._final)
        self._discard()
        return published

    def _finished_attributes(self) -> CacheAttributes:
        for part, key in (
            ("gaussians", "n_gaussians"),
            ("cameras", "n_views"),
            ("lifting", "nnz"),
            ("visibility", "coverage"),
        ):
            if key not in self._draft:
                raise CacheError(f"scene {self.scene_id}: cannot publish, {part} was never written")
        views, n = self._draft["n_views"], self._draft["n_gaussians"]
        for name, last in self._last_rows.items():
            if last >= n:
                raise CacheError(f"scene {self.scene_id}: teacher {name} has a vector for row {last} of {n} Gaussians")
        return CacheAttributes(
            **self._header.model_dump(),
            **self._draft,
            dense_teachers={name: teacher.finish(views) for name, teacher in sorted(self._dense.items())},
            mask_teachers={name: teacher.finish(views) for name, teacher in sorted(self._masks.items())},
        )

    # -- arrays ---------------------------------------------------------------

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
        filters, compressors = _codecs(layout)
        array = zarr.create_array(
            self._store, name=path, shape=layout.shape, dtype=layout.dtype, chunks=layout.chunks, shards=layout.shards,
            filters=filters, compressors=compressors, fill_value=layout.fill_value, zarr_format=3,
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
        """`values` in the array's type, which must hold them without touching the fill value. For the teachers'
        writers.
        """
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


def _codecs(layout: ArrayLayout) -> tuple[list[Any], list[Any]]:
    """Filters and compressors, a checksum last."""
    if layout.codec == "zstd":
        return [], [ZstdCodec(level=1), Crc32cCodec()]
    if layout.codec == "bitshuffle":
        return [], [BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle"), Crc32cCodec()]
    delta = Delta(dtype=np.dtype(layout.dtype).newbyteorder("<").str)
    return [delta], [BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"), Crc32cCodec()]
