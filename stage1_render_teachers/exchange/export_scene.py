"""One published cache -> a folder as SceneSplat and the released Chorus keep them: Gaussians with a vector each.

Rows are in the order of the scene's file, without those that the cache left out; coordinates are the cache's (z up,
metres). Features are lifted a block of rows at a time, brought back to the teacher's own space and written as f16.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from chorus_common.cache import SceneCache
from chorus_common.cache.names import TEMPORARY_PREFIX
from chorus_common.cache.publish import publish_folder
from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.lifting import LiftingIndex
from chorus_common.manifest import ManifestRow
from chorus_common.runtime.errors import CacheError, ConfigError, SceneError, did_you_mean
from chorus_common.runtime.store_path import StorePath
from chorus_common.scene_io.npy_folder import SEGMENT_FILES, write_npy_folder
from stage1_render_teachers.attempt import Stopwatch, attempt
from stage1_render_teachers.exchange.feature_files import (
    BLOCK,
    DOCUMENT,
    IMPORTED,
    MASK,
    ExchangeDocument,
    TeacherOrigin,
    read_document,
)
from stage1_render_teachers.outcomes import SceneOutcome
from stage1_render_teachers.store import scene_path
from stage1_render_teachers.teachers.protocol import teacher_name

EXPORT_VERSION = 1

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


@dataclass(frozen=True)
class ExportJob:
    """All that a worker needs to know to export one scene.

    teachers: (stem, name of the store's teacher) each; none = all dense teachers, imported ones under the stem that
    they had, others under their own name.
    unit: whether vectors are scaled to length 1, as in SceneSplat's chunks.
    """

    row: ManifestRow
    store: StorePath
    out: Path
    teachers: tuple[tuple[str, str], ...]
    unit: bool = False
    overwrite: bool = False

    @property
    def folder(self) -> Path:
        return self.out / self.row.dataset / self.row.split / self.row.scene_id


def export_scene(job: ExportJob) -> SceneOutcome:
    """Do one scene and say what happened; see `attempt`."""

    def work(watch: Stopwatch) -> SceneOutcome:
        with watch("read"):
            cache = SceneCache.open(scene_path(job.store, job.row))
        settings = _settings_hash(job)
        if _already_exported(job, cache, settings):
            return SceneOutcome(job.row.dataset, job.row.scene_id, "skipped")
        return _export(job, cache, settings, watch)

    return attempt(job.row, job.out, work)


def _settings_hash(job: ExportJob) -> str:
    return hashlib.sha256(json.dumps([EXPORT_VERSION, job.teachers, job.unit]).encode()).hexdigest()[:16]


def _already_exported(job: ExportJob, cache: SceneCache, settings: str) -> bool:
    if not job.folder.exists():
        return False
    found = read_document(job.folder)
    if (found.cache, found.settings) == (cache.fingerprint, settings):
        return True
    if not job.overwrite:
        raise CacheError(
            f"scene {job.row.scene_id}: {job.folder} holds something else than this export; give --overwrite to "
            "replace it, or use another --out"
        )
    condemned = job.folder.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    os.rename(job.folder, condemned)
    shutil.rmtree(condemned)
    return False


def _export(job: ExportJob, cache: SceneCache, settings: str, watch: Stopwatch) -> SceneOutcome:
    scene = cache.scene()
    order = np.argsort(scene.source_ids, kind="stable")  # matrix row of every row of the folder
    row_of = np.empty(len(scene), np.int64)
    row_of[order] = np.arange(len(scene))
    chosen = job.teachers or tuple((_stem(name, a.spec), name) for name, a in cache.dense_teachers.items())
    if not chosen:
        raise CacheError(f"cache {cache.path}: has no dense teacher to export")
    seen = np.zeros(len(scene), np.bool_)
    origins = {}
    with _unfinished(job.folder) as folder:
        with watch("write"):
            write_npy_folder(scene.select(order), folder)
            _name_labels(folder, scene.label_space)
            if not np.array_equal(scene.source_ids[order], np.arange(len(scene))):
                np.save(folder / "source_ids.npy", scene.source_ids[order])
        for stem, asked in chosen:
            name = asked if asked in cache.dense_teachers else teacher_name(asked)
            if name not in cache.dense_teachers:
                hint = did_you_mean(name, list(cache.dense_teachers))
                raise ConfigError(f"cache {cache.path}: has no dense teacher '{asked}'{hint}")
            teacher = cache.dense_teachers[name]
            origins[stem] = TeacherOrigin(
                spec=teacher.spec, fingerprint=teacher.fingerprint, text_aligned=teacher.text_aligned
            )
            with watch(name):
                _write_features(folder, stem, _source(cache, job.store, name), row_of, seen, job.unit)
        np.save(folder / MASK, seen[order])
        document = ExchangeDocument(
            cache=cache.fingerprint, settings=settings, teachers=origins,
            alignment=cache.attributes.alignment.model_dump(mode="json"),
        )  # fmt: skip
        text = json.dumps(document.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"
        (folder / DOCUMENT).write_text(text, encoding="utf-8")
        published = publish_folder(folder, job.folder)
    return SceneOutcome(
        job.row.dataset, job.row.scene_id, "done" if published else "skipped", n_gaussians=len(scene),
        bytes=sum(file.stat().st_size for file in job.folder.iterdir()), coverage=float(seen.mean()),
    )  # fmt: skip


def _stem(name: str, spec: str) -> str:
    """What files of a teacher are called where nobody says: as they were when they were imported, else its name."""
    stem = spec.removeprefix(IMPORTED)
    return stem if spec.startswith(IMPORTED) and stem else name


class FeatureSource(Protocol):
    """Features per matrix row: known [N] bool, channels, and the vectors [R, C] of a run of rows, those known."""

    known: NDArray[np.bool_]
    channels: int

    def rows(self, begin: int, end: int) -> F32: ...


class _FromViews:
    """Lifted through the index."""

    def __init__(self, index: LiftingIndex, cells: F32, standardiser: PhiSStandardiser) -> None:
        self.known, self.channels = np.diff(index.indptr) > 0, standardiser.channels
        self._index, self._cells, self._standardiser = index, cells, standardiser

    def rows(self, begin: int, end: int) -> F32:
        sums, weight = self._index.lift(self._cells, rows=slice(begin, end))
        known = self.known[begin:end]
        return self._standardiser.inverse(sums[known] / weight[known, None])


class _CameLifted:
    """Imported."""

    def __init__(self, cache: SceneCache, name: str, standardiser: PhiSStandardiser) -> None:
        self.known = np.zeros(cache.attributes.n_gaussians, np.bool_)
        self.known[cache.lifted_rows(name)] = True
        self.channels = standardiser.channels
        self._cache, self._name, self._standardiser = cache, name, standardiser

    def rows(self, begin: int, end: int) -> F32:
        values, known = self._cache.lifted_features(self._name, slice(begin, end))
        return self._standardiser.inverse(values[known])


def _source(cache: SceneCache, store: StorePath, name: str) -> FeatureSource:
    path = store / "standardisers" / f"{name}.safetensors"
    standardiser, teacher = PhiSStandardiser.load(path), cache.dense_teachers[name]
    if standardiser.fingerprint != teacher.standardiser:
        raise CacheError(f"cache {cache.path}: teacher {name} was standardised in another way than {path} says")
    if teacher.lifted_rows is not None:
        return _CameLifted(cache, name, standardiser)
    cells = cache.features(name)
    return _FromViews(cache.lifting(), cells.reshape(-1, cells.shape[-1]), standardiser)  # [V * cells, C]


def _write_features(
    folder: Path, stem: str, source: FeatureSource, row_of: I64, seen: NDArray[np.bool_], unit: bool
) -> None:
    """`<stem>_feat.npy` and its index, rows ascending; `seen` is told which matrix rows have features.

    row_of [N]: the folder's row of every matrix row.
    """
    known = source.known
    seen |= known
    index = np.sort(row_of[known])
    slot = np.searchsorted(index, row_of)  # of every matrix row among the folder's rows that are known
    out = open_memmap(folder / f"{stem}_feat.npy", mode="w+", dtype=np.float16, shape=(len(index), source.channels))
    for begin in range(0, len(known), BLOCK):
        end = min(begin + BLOCK, len(known))
        values = source.rows(begin, end)
        if unit:
            values = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise SceneError(f"{folder.parent}: features of {stem} exceed f16 (65504)")
        out[slot[begin:end][known[begin:end]]] = half
    out.flush()
    np.save(folder / f"{stem}_feat_index.npy", index.astype(np.int32))


def _name_labels(folder: Path, label_space: str) -> None:
    """SceneSplat tells label spaces apart by the names of their files."""
    names = [name for name, space in SEGMENT_FILES.items() if space == label_space and name != "segment"]
    if names and (folder / "segment.npy").is_file():
        os.rename(folder / "segment.npy", folder / f"{names[0]}.npy")


@contextlib.contextmanager
def _unfinished(final: Path) -> Iterator[Path]:
    """A folder beside `final` that `sweep_orphans` leaves alone while we live; removed on the way out."""
    final.parent.mkdir(parents=True, exist_ok=True)
    folder = final.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    folder.mkdir()
    lock = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)
