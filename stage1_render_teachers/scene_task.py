"""One scene -> one published teacher cache.

Everything a scene needs happens here and only here: read, pick views, render, ask the teachers, standardise, quantise,
build the lifting matrix, write, check, publish. The result is a pure function of the scene's files, the settings and the
teacher bases; where it runs and beside what makes no difference to a byte.
"""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import shutil
import sys
import time
import traceback
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.cache import CacheAttributes, SceneCache, SceneCacheWriter, fingerprint
from chorus_common.cameras import CameraSet
from chorus_common.errors import CacheError, ChorusError, SceneError, one_line
from chorus_common.lifting import CellHits, LiftingIndex
from chorus_common.manifest import ManifestRow
from chorus_common.quantise import Quantiser
from chorus_common.scene import GaussianScene
from stage1_render_teachers.fidelity import Fidelity
from stage1_render_teachers.mask_pooling import pool_under_masks
from stage1_render_teachers.outcomes import SceneOutcome
from stage1_render_teachers.plan import TeacherPlan, load_basis, shared_teacher, teacher_threads
from stage1_render_teachers.render_views import ViewBatch, config_grid, load_scene, pick_views, render_batches
from stage1_render_teachers.settings import Stage1Config
from stage1_render_teachers.teachers import DenseTeacher, MaskTeacher

#: Raise when the same settings give other numbers than before: caches made by older code are then seen as such.
STAGE1_VERSION = 1


@dataclass(frozen=True)
class SceneJob:
    """All that a worker needs to know to do one scene."""

    row: ManifestRow
    store: Path
    config: Stage1Config
    teachers: tuple[TeacherPlan, ...]
    device: str = "cpu"
    overwrite: bool = False

    @property
    def path(self) -> Path:
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

    Only an interrupt and a broken CUDA context get out: the first is the user's wish, the second poisons every scene that
    this process would still do, so a worker ends itself and its keeper starts a fresh one.
    """
    watch = Stopwatch()
    blank = SceneOutcome(job.row.dataset, job.row.scene_id, "failed")
    try:
        if already_published(job):
            outcome = replace(blank, status="skipped")
        else:
            outcome = publish_scene(job, watch)
    except Exception as error:  # poisonous scenes must not stop the others; nothing is swallowed, the line is recorded
        if "CUDA error" in str(error) and in_worker():
            os._exit(70)
        outcome = replace(blank, error=failure_line(job, error))
    return replace(
        outcome,
        seconds=watch.seconds(),
        peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        finished=time.time(),
    )


def already_published(job: SceneJob) -> bool:
    """Whether the scene's cache is there with the fingerprint this job would give it.

    A cache with another fingerprint, or a damaged one, is removed when the job says overwrite and a CacheError otherwise:
    mixing settings in one store, or trusting a broken cache, must be somebody's decision.
    """
    if not job.path.exists():
        return False
    try:
        found = SceneCache.open(job.path).fingerprint
        problem = "was published with other settings, teachers or input files"
    except CacheError as error:
        found, problem = "", one_line(error)
    if found == scene_fingerprint(job):
        return True
    if not job.overwrite:
        raise CacheError(f"scene {job.row.scene_id}: {problem}; give --overwrite to redo it, or use another --store")
    unpublish(job.path)
    return False


def unpublish(path: Path) -> None:
    """Take a published cache away: one rename, then removal at leisure (a kill in between leaves only a `.tmp-` folder)."""
    condemned = path.with_name(f".tmp-{uuid.uuid4().hex}")
    os.rename(path, condemned)
    shutil.rmtree(condemned)


def failure_line(job: SceneJob, error: Exception) -> str:
    """One line that says what is wrong with the scene; for an error nobody foresaw, also where it came up."""
    scene = f"scene {job.row.scene_id}: "
    if isinstance(error, ChorusError):
        line = one_line(error)
        return line if job.row.scene_id in line else scene + line
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
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
