"""One scene -> one published teacher cache.

Everything a scene needs happens here and only here: read, pick views, render, ask the teachers, standardise, quantise,
build the lifting matrix, write, check, publish. The result is a pure function of the scene's files, the settings and
the PHI-S standardisers; where it runs and beside what makes no difference to a byte.
"""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.cache import (
    GridAttributes,
    SceneCache,
    SceneCacheWriter,
    SceneHeader,
    cache_fingerprint,
    is_published,
    published_bytes,
    unpublish,
)
from chorus_common.cache.schema import AlignmentAttributes
from chorus_common.cameras import CameraSet
from chorus_common.lifting import CellHits, LiftingIndex
from chorus_common.manifest import ManifestRow
from chorus_common.runtime.allocator import keep_freed_memory
from chorus_common.runtime.bucket import BucketError
from chorus_common.runtime.errors import CacheError, ChorusError, SceneError, is_full_disk, one_line
from chorus_common.runtime.peak_memory import peak_memory
from chorus_common.runtime.store_path import StorePath
from chorus_common.scene_check import Alignment
from chorus_common.viewpoints import Survey, survey_scene
from stage1_render_teachers.outcomes import SceneOutcome
from stage1_render_teachers.plan import TeacherPlan, teacher_threads
from stage1_render_teachers.settings import Stage1Config
from stage1_render_teachers.teacher_passes import open_passes
from stage1_render_teachers.views.render_views import (
    align_row,
    config_grid,
    load_scene,
    own_cameras,
    pick_views,
    render_batches,
)
from stage1_render_teachers.views.surfaces import SceneSurfaces

#: Raise when the same settings give other numbers than before: caches made by older code are then seen as such.
STAGE1_VERSION = 5


#: Stands for the cameras of a scene that brings none; another word when they are chosen in another way.
CHOSEN = "chosen where people stand"
#: Share of empty pixels over all views from which something is wrong: of an object, of an interior.
MOSTLY_EMPTY = (0.9, 0.5)


@dataclass(frozen=True)
class SceneJob:
    """All that a worker needs to know to do one scene."""

    row: ManifestRow
    store: StorePath
    config: Stage1Config
    teachers: tuple[TeacherPlan, ...]
    device: str = "cpu"
    overwrite: bool = False

    @property
    def path(self) -> StorePath:
        return self.store / self.row.dataset / f"{self.row.scene_id}.zarr"


class Stopwatch:
    """Seconds of wall clock per named step; a step may be entered again and again."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[step] = self._seconds.get(step, 0.0) + time.perf_counter() - start

    def seconds(self) -> dict[str, float]:
        return {**self._seconds, "total": time.perf_counter() - self._start}


def run_scene(job: SceneJob) -> SceneOutcome:
    """Do one scene and say what happened; bad input of any kind becomes a failed outcome with one line.

    Only an interrupt and a broken CUDA context get out: the first is the user's wish, the second poisons every scene
    that this process would still do, so a worker ends itself and its keeper starts a fresh one.
    """
    keep_freed_memory()
    watch = Stopwatch()
    blank = SceneOutcome(job.row.dataset, job.row.scene_id, "failed")
    try:
        own = own_cameras(job.row)
        if already_published(job, own):
            outcome = replace(blank, status="skipped")
        else:
            outcome = publish_scene(job, own, watch)
    except Exception as error:  # poisonous scenes must not stop the others; nothing is swallowed, the line is recorded
        if "CUDA error" in str(error) and in_worker():
            os._exit(70)
        outcome = replace(blank, error=failure_line(job, error), transient=is_transient(error))
    return replace(
        outcome,
        seconds=watch.seconds(),
        peak_memory=peak_memory(),
        finished=time.time(),
    )


def publish_scene(job: SceneJob, own: CameraSet | None, watch: Stopwatch) -> SceneOutcome:
    """Make and publish the cache of one scene; `own`: the cameras that it brings.

    Raises ChorusError, or whatever a broken file or a full disk raises.
    """
    config = job.config
    with watch("read"):
        aligned = align_row(load_scene(job.row), own, config)
        scene = aligned.scene
    with watch("views"):
        survey = survey_scene(scene) if own is None else None
        cameras = pick_views(aligned.cameras, scene, config, survey)
    hits: list[CellHits] = []
    images: list[NDArray[np.uint8]] = []
    depths: list[NDArray[np.float16]] = []
    empty = 0.0
    with SceneCacheWriter(job.path, scene_header(job, own, aligned.alignment)) as writer:
        writer.put_cameras(cameras)
        surfaces = SceneSurfaces(scene, cameras, config.rasterizer)
        passes = open_passes(writer, job.teachers, job.store, config, job.device, len(scene), surfaces)
        batches = render_batches(scene, cameras, config)
        with teacher_threads(config.teacher_threads):
            while True:
                with watch("render"):
                    batch = next(batches, None)
                if batch is None:
                    break
                hits += batch.hits
                empty += float((batch.depth <= 0).mean(axis=(1, 2)).sum())
                if config.store_rgb:
                    images.append(batch.images)
                if config.store_depth:
                    depths.append(batch.depth.astype(np.float16))
                tokens: dict[str, NDArray[np.float32]] = {}
                for step in passes:
                    step.add(batch, tokens, watch)
        if not any(map(len, hits)):
            raise SceneError(
                f"scene {job.row.scene_id}: none of its {len(cameras)} views sees any Gaussian; "
                "do the cameras belong to it?"
            )
        with watch("index"):
            index = LiftingIndex.build(hits, scene.means, config_grid(config))
            weight, n_views = index.visibility()
            coverage = float((n_views >= config.coverage_views).mean())
        with watch("write"):
            writer.put_lifting(index)
            writer.put_visibility(weight, n_views)
            writer.put_gaussians(scene, index.order)
            if images:
                writer.put_rgb(images)
            if depths:
                writer.put_depth(depths)
            errors = {step.name: step.finish() for step in passes}
            figures = {f"{name}/{key}": value for name, found in errors.items() for key, value in found.items()}
            figures["empty_pixels"] = empty / len(cameras)
            if survey is not None and survey.kind == "interior":
                inside = survey.inside(scene.means)[index.order]
                figures["interior_coverage"] = float((n_views >= config.coverage_views)[inside].mean())
            writer.put_measures({f"covered_by_{config.coverage_views}_views": coverage, **figures})
        with watch("publish"):
            published = writer.publish()
    return SceneOutcome(
        job.row.dataset,
        job.row.scene_id,
        "done" if published else "skipped",  # another process was first; what it published is the same
        bytes=published_bytes(job.path),
        n_gaussians=len(scene),
        n_views=len(cameras),
        coverage=coverage,
        empty_pixels=empty / len(cameras),
        mostly_empty=_mostly_empty(empty / len(cameras), aligned.interior, survey),
        kind="" if survey is None else survey.kind,
        interior_coverage=figures.get("interior_coverage"),
        notes=tuple(finding.line() for finding in aligned.findings if finding.severity in ("note", "warning")),
        errors={name: found for name, found in errors.items() if found},
    )


def _mostly_empty(empty: float, interior: bool, survey: Survey | None) -> bool:
    """Whether that share of empty pixels is more than a scene of its kind explains; an object that was given its views
    by us may be as thin as it is.
    """
    if survey is None:
        return empty > MOSTLY_EMPTY[interior]
    return survey.kind != "object" and empty > MOSTLY_EMPTY[survey.kind == "interior"]


def scene_header(job: SceneJob, own: CameraSet | None, alignment: Alignment) -> SceneHeader:
    """What the cache says of itself."""
    config = job.config
    return SceneHeader(
        scene_id=job.row.scene_id,
        dataset=job.row.dataset,
        fingerprint=scene_fingerprint(job, own),
        grid=GridAttributes(
            width=config.width, height=config.height, cell=config.cell, interpolation=config.interpolation
        ),
        settings=config.model_dump(mode="json"),
        alignment=AlignmentAttributes(**alignment.as_dict()),
    )


def scene_fingerprint(job: SceneJob, own: CameraSet | None) -> str:
    """Hash of everything that changes a byte of the scene's cache: files, settings, teachers, standardisers, version of
    this code.

    The scene's part is the manifest's checksum: finding out that a scene is done must not read gigabytes. The cameras'
    part is what is read of them: beside poses their folder may hold every picture of the capture.
    """
    settings = job.config.model_dump(mode="json", exclude={"calibration"})
    return cache_fingerprint(
        job.row.sha256,
        CHOSEN if own is None else own,
        {"version": STAGE1_VERSION, "settings": settings, "teachers": [asdict(teacher) for teacher in job.teachers]},
    )


def already_published(job: SceneJob, own: CameraSet | None) -> bool:
    """Whether the scene's cache is there with the fingerprint this job would give it.

    A cache with another fingerprint, or a damaged one, is removed when the job says overwrite and a CacheError
    otherwise: mixing settings in one store, or trusting a broken cache, must be somebody's decision. Overwriting reads
    every byte, so that it mends what `verify` finds; otherwise lengths and metadata are looked at.
    """
    if not is_published(job.path):
        return False
    try:
        found = SceneCache.open(job.path, check="full" if job.overwrite else "fast").fingerprint
        problem = "was published with other settings, teachers or input files"
    except BucketError:  # nothing is known about the scene: neither done nor damaged
        raise
    except CacheError as error:
        found, problem = "", one_line(error)
    if found == scene_fingerprint(job, own):
        return True
    if not job.overwrite:
        raise CacheError(f"scene {job.row.scene_id}: {problem}; give --overwrite to redo it, or use another --store")
    unpublish(job.path)
    return False


def is_transient(error: Exception) -> bool:
    """Whether trying again may help: a server that did not answer, a network file system that lost its thread."""
    passing = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ECONNRESET, errno.EBUSY)
    return isinstance(error, BucketError) or (isinstance(error, OSError) and error.errno in passing)


def failure_line(job: SceneJob, error: Exception) -> str:
    """One line that says what is wrong with the scene; for an error nobody foresaw, also where it came up."""
    scene = f"scene {job.row.scene_id}: "
    if isinstance(error, ChorusError):
        line = one_line(error)
        return line if job.row.scene_id in line else scene + line
    if isinstance(error, OSError) and is_full_disk(error):
        return f"{scene}disk full under {job.store}; free some space and run the same command again"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{scene}{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"{scene}out of memory; use fewer workers, a smaller batch or a smaller picture"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{scene}{one_line(error)} (at {Path(frame.filename).name}:{frame.lineno})"


def in_worker() -> bool:
    """Whether this process is a dask worker, which its keeper replaces when it ends."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True
