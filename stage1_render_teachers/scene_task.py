"""One scene -> one published teacher cache.

Everything a scene needs happens here and only here: read, pick views, render, ask the teachers, standardise, quantise,
build the lifting matrix, write, check, publish. The result is a pure function of the scene's files, the settings and
the PHI-S standardisers; where it runs and beside what makes no difference to a byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from chorus_common.cache import (
    GridAttributes,
    SceneCacheWriter,
    SceneHeader,
    cache_fingerprint,
    published_bytes,
)
from chorus_common.cache.schema import AlignmentAttributes
from chorus_common.cameras import CameraSet
from chorus_common.lifting import CellHits, LiftingIndex
from chorus_common.manifest import ManifestRow
from chorus_common.runtime.errors import SceneError
from chorus_common.runtime.progress import progress
from chorus_common.runtime.store_path import StorePath
from chorus_common.scene_check import Alignment
from chorus_common.viewpoints import Survey, survey_scene
from stage1_render_teachers.attempt import Stopwatch, attempt, timed
from stage1_render_teachers.outcomes import SceneOutcome
from stage1_render_teachers.overlap import done_aside, made_ahead, teachers_run_elsewhere
from stage1_render_teachers.pictures import photographed, photographs_of, take_pictures, with_pictures
from stage1_render_teachers.plan import TeacherPlan, teacher_threads
from stage1_render_teachers.settings import Stage1Config, scene_settings
from stage1_render_teachers.store import already_published
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
    show_views: bool = False  # tell how many views are done: for a scene that is alone

    @property
    def path(self) -> StorePath:
        return self.store / self.row.dataset / f"{self.row.scene_id}.zarr"

    @property
    def settings(self) -> Stage1Config:
        """The settings of this scene: what the manifest says of it, where `config` leaves it open."""
        return scene_settings(self.config, self.row)


def run_scene(job: SceneJob) -> SceneOutcome:
    """Do one scene and say what happened; see `attempt`."""

    def work(watch: Stopwatch) -> SceneOutcome:
        own = own_cameras(job.row, job.config)
        fingerprint = scene_fingerprint(job, own)
        if already_published(job.path, job.row.scene_id, fingerprint, overwrite=job.overwrite):
            return SceneOutcome(job.row.dataset, job.row.scene_id, "skipped")
        return publish_scene(job, own, watch)

    return attempt(job.row, job.store, work)


def publish_scene(job: SceneJob, own: CameraSet | None, watch: Stopwatch) -> SceneOutcome:
    """Make and publish the cache of one scene; `own`: the cameras that it brings.

    Raises ChorusError, or whatever a broken file or a full disk raises.
    """
    config = job.settings
    with watch("read"):
        photographs = photographs_of(job.row, config)
        posed, absent = photographed(photographs, own)
        aligned = align_row(load_scene(job.row), posed, config)
        scene = aligned.scene
    with watch("views"):
        survey = survey_scene(scene) if own is None else None
        cameras, taken = take_pictures(photographs, pick_views(aligned.cameras, scene, config, survey))
    hits: list[CellHits] = []
    images: list[NDArray[np.uint8]] = []
    depths: list[NDArray[np.float16]] = []
    empty = 0.0
    with SceneCacheWriter(job.path, scene_header(job, own, aligned.alignment)) as writer:
        writer.put_cameras(cameras)
        surfaces = SceneSurfaces(scene, cameras, config.rasterizer)
        passes = open_passes(writer, job.teachers, job.store, config, job.device, len(scene), surfaces)
        made = with_pictures(render_batches(scene, cameras, config), taken, config)
        overlap = teachers_run_elsewhere(job.device)
        with (
            teacher_threads(config.teacher_threads),
            made_ahead(timed(made, watch, "render"), overlap=overlap) as batches,
            done_aside(overlap=overlap) as aside,
            views_done(job, len(cameras)) as advance,
        ):
            for batch in batches:
                hits += batch.hits
                empty += float((batch.depth <= 0).mean(axis=(1, 2)).sum())
                if config.store_rgb:
                    images.append(batch.images)
                if config.store_depth:
                    depths.append(batch.depth.astype(np.float16))
                tokens: dict[str, NDArray[np.float32]] = {}
                for step in passes:
                    aside(step.add(batch, tokens, watch))
                advance(len(batch.views))
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
        notes=(
            *(finding.line() for finding in aligned.findings if finding.severity in ("note", "warning")),
            *(note for note in (absent, "" if taken is None else taken.note) if note),
        ),
        errors={name: found for name, found in errors.items() if found},
    )


@contextmanager
def views_done(job: SceneJob, count: int) -> Iterator[Callable[[int], None]]:
    """Something that is told of finished views, of `count`; it says so where the job wants it."""
    if not job.show_views:
        yield lambda views: None
        return
    with progress(count, f"{job.row.scene_id}: views", bar=False) as report:
        yield report.advance


def _mostly_empty(empty: float, interior: bool, survey: Survey | None) -> bool:
    """Whether that share of empty pixels is more than a scene of its kind explains; an object that was given its views
    by us may be as thin as it is.
    """
    if survey is None:
        return empty > MOSTLY_EMPTY[interior]
    return survey.kind != "object" and empty > MOSTLY_EMPTY[survey.kind == "interior"]


def scene_header(job: SceneJob, own: CameraSet | None, alignment: Alignment) -> SceneHeader:
    """What the cache says of itself."""
    config = job.settings
    return SceneHeader(
        scene_id=job.row.scene_id,
        dataset=job.row.dataset,
        fingerprint=scene_fingerprint(job, own),
        grid=GridAttributes(
            width=config.width, height=config.height, cell=config.cell, interpolation=config.interpolation
        ),
        settings=config.model_dump(mode="json"),
        alignment=AlignmentAttributes(**alignment.as_dict()),
        lod=job.row.lod,
    )


def scene_fingerprint(job: SceneJob, own: CameraSet | None) -> str:
    """Hash of everything that changes a byte of the scene's cache: files, settings, teachers, standardisers, version of
    this code.

    The scene's part is the manifest's checksum: finding out that a scene is done must not read gigabytes. The cameras'
    part is what is read of them: beside poses their folder may hold every picture of the capture. Of photographs that
    teachers look at, it is file names, sizes and lenses.
    """
    settings = job.settings.model_dump(mode="json", exclude={"calibration"})
    found = photographs_of(job.row, job.config)
    photographs = "" if found is None or own is None else found.digest(own.names)
    return cache_fingerprint(
        job.row.sha256,
        CHOSEN if own is None else own,
        {
            "version": STAGE1_VERSION,
            "settings": settings,
            "lod": job.row.lod,
            "photographs": photographs,
            "teachers": [asdict(teacher) for teacher in job.teachers],
        },
    )
