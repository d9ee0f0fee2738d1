"""PHI-S standardisers: the mean and PHI-S rotation of every dense teacher, fitted once per store on a sample of its
scenes.

The sample is drawn with a seed from the manifest alone and the moments are merged in the order of the draw, so the
standardiser does not depend on workers, on shards, or on which scene was finished first.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from chorus_common.cluster.pool import Pool, WorkerLost
from chorus_common.features.standardise import Moments, PhiSStandardiser, phi_s
from chorus_common.manifest import ManifestRow
from chorus_common.runtime.allocator import keep_freed_memory
from chorus_common.runtime.atomic import create_bytes_atomically
from chorus_common.runtime.errors import CacheError, one_line
from chorus_common.runtime.progress import Progress
from chorus_common.runtime.store_path import StorePath
from stage1_render_teachers.pictures import photographed, photographs_of, take_pictures, with_pictures
from stage1_render_teachers.plan import TeacherFacts, shared_teacher, standardiser_path, teacher_threads
from stage1_render_teachers.settings import Stage1Config, scene_settings
from stage1_render_teachers.teachers import DenseTeacher
from stage1_render_teachers.teachers.protocol import split_name
from stage1_render_teachers.views.render_views import (
    align_row,
    config_grid,
    load_scene,
    own_cameras,
    pick_views,
    render_batches,
)


@dataclass(frozen=True)
class CalibrationJob:
    """One scene of the sample. `specs` names the dense teachers whose standardiser is wanted."""

    row: ManifestRow
    specs: tuple[str, ...]
    config: Stage1Config
    device: str


class JobOnScene(Protocol):
    """Work on one scene."""

    @property
    def row(self) -> ManifestRow: ...


Job = TypeVar("Job", bound=JobOnScene)


@dataclass(frozen=True)
class SceneMoments:
    """Moments per teacher spec of one scene, or the reason why there are none."""

    moments: dict[str, Moments] = field(default_factory=dict)
    error: str = ""


def missing_standardisers(store: StorePath, teachers: Iterable[TeacherFacts]) -> tuple[TeacherFacts, ...]:
    """The dense teachers that have no standardiser in `store` yet."""
    return tuple(t for t in teachers if t.dense and not standardiser_path(store, t.name).exists())


def calibrate(
    rows: Sequence[ManifestRow], store: StorePath, teachers: Sequence[TeacherFacts], config: Stage1Config, device: str,
    pool: Pool, report: Progress, *, overwrite: bool = False,
) -> list[StorePath]:  # fmt: skip
    """Fit and save the standardisers of dense `teachers` on a sample of `rows`; returns their paths.

    `device` is where the jobs run. Raises CacheError when no scene can be used.
    """
    specs = tuple(teacher.spec for teacher in teachers)
    jobs = [CalibrationJob(row, specs, config, device) for row in draw_rows(rows, config.seed)]
    merged = merged_moments(jobs, config.calibration.scenes, scene_moments, pool, report)
    paths: list[StorePath] = []
    for teacher in teachers:
        moments = merged[teacher.spec]
        spec = split_name(teacher.spec)[1]
        standardiser = phi_s(moments, spec=spec, teacher_fingerprint=teacher.fingerprint, seed=config.seed)
        paths.append(save_standardiser(standardiser, standardiser_path(store, teacher.name), overwrite=overwrite))
    return paths


def merged_moments(
    draw: Sequence[Job], wanted: int, task: Callable[[Job], SceneMoments], pool: Pool, report: Progress
) -> dict[str, Moments]:
    """Moments of the first `wanted` jobs of a draw whose scenes can be used, merged in the order of the draw.

    A scene that fails is replaced by the next one. Raises CacheError when none can be used.
    """
    merged: dict[str, Moments] = {}
    used, next_job, first_error = 0, 0, ""
    while used < wanted and next_job < len(draw):
        wave = draw[next_job : next_job + wanted - used]
        next_job += len(wave)
        found: dict[str, SceneMoments] = {}
        for done in pool.map(task, wave):
            result = done.result
            if isinstance(result, WorkerLost):
                result = SceneMoments(error=f"scene {done.job.row.scene_id}: {result.reason}")
            if result.error:
                report.say(f"left out of the calibration: {result.error}")
            report.advance()
            found[_key(done.job.row)] = result
        for job in wave:
            result = found[_key(job.row)]
            first_error = first_error or result.error
            used += not result.error
            for name, moments in result.moments.items():
                merged[name] = merged[name].merge(moments) if name in merged else moments
    if used == 0:
        raise CacheError(f"calibration: none of {len(draw)} scenes can be used; the first: {first_error}")
    return merged


def draw_rows(rows: Sequence[ManifestRow], seed: int) -> list[ManifestRow]:
    """All rows in an order that depends on the seed and on the set of scenes, not on their order in the manifest."""
    ordered = sorted(rows, key=_key)
    return [ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))]


def scene_moments(job: CalibrationJob) -> SceneMoments:
    """Moments of the tokens of a few seeded views of one scene. Never raises for bad input."""
    keep_freed_memory()
    config = scene_settings(job.config, job.row)
    try:
        teachers = {spec: shared_teacher(spec, job.device) for spec in job.specs}
        photographs = photographs_of(job.row, config)
        own, _ = photographed(photographs, own_cameras(job.row, config))
        aligned = align_row(load_scene(job.row), own, config)
        scene = aligned.scene
        cameras = pick_views(aligned.cameras, scene, config)
        rng = np.random.default_rng([config.seed, zlib.crc32(_key(job.row).encode())])
        views = np.sort(rng.choice(len(cameras), min(config.calibration.views, len(cameras)), replace=False))
        chosen, taken = take_pictures(photographs, cameras.select(views))
        moments: dict[str, Moments] = {}
        with teacher_threads(config.teacher_threads):
            for batch in with_pictures(render_batches(scene, chosen, config), taken, config):
                for spec, teacher in teachers.items():
                    assert isinstance(teacher, DenseTeacher)
                    tokens = teacher.features(batch.images, config_grid(config)).reshape(-1, teacher.channels)
                    if config.calibration.tokens:
                        count = min(len(tokens), config.calibration.tokens * len(batch.views))
                        tokens = tokens[np.sort(rng.choice(len(tokens), count, replace=False))]
                    moments[spec] = moments.get(spec, Moments.empty(teacher.channels)).update(tokens)
        return SceneMoments(moments)
    except Exception as error:  # the run goes on without this scene; the line says why
        return SceneMoments(error=f"scene {job.row.scene_id}: {one_line(error)}")


def save_standardiser(standardiser: PhiSStandardiser, path: StorePath, *, overwrite: bool) -> StorePath:
    """Write a standardiser that is not there yet; whoever comes second keeps the first one's, unless told to overwrite.

    Shards that start at the same moment all calibrate. On unlike machines their standardisers may differ in the last
    bit, and a standardiser must never change under a scene that was encoded with it.
    """
    if overwrite:
        standardiser.save(path)
        return path
    create_bytes_atomically(path, standardiser.to_bytes())
    return path


def _key(row: ManifestRow) -> str:
    return f"{row.dataset}/{row.scene_id}"
