"""One scene's folder of features per Gaussian -> one published cache without views.

Nothing is rendered and no teacher runs. Features are read a block of rows at a time, standardised, quantised and
written, in the Morton order of the cache; the memory holds the scene, its index of rows, and one block.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from chorus_common.cache import GridAttributes, SceneCacheWriter, SceneHeader, cache_fingerprint, published_bytes
from chorus_common.cache.names import UNRECORDED
from chorus_common.cache.schema import AlignmentAttributes
from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.lifting import morton_order
from chorus_common.manifest import ManifestRow
from chorus_common.runtime.errors import SceneError
from chorus_common.runtime.store_path import StorePath
from chorus_common.scene_check import Alignment, align_scene
from stage1_render_teachers.attempt import Stopwatch, attempt
from stage1_render_teachers.exchange.feature_files import BLOCK, FeatureTable, open_features, read_document, stems_of
from stage1_render_teachers.exchange.settings import ImportConfig
from stage1_render_teachers.fidelity import row_cosine
from stage1_render_teachers.outcomes import SceneOutcome
from stage1_render_teachers.plan import TeacherPlan, load_standardiser
from stage1_render_teachers.store import already_published, scene_path
from stage1_render_teachers.views.render_views import load_scene

#: Raise when the same settings give other numbers than before.
IMPORT_VERSION = 1

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class ImportTeacher:
    """A teacher whose features are taken from `<stem>_feat.npy`."""

    stem: str
    plan: TeacherPlan
    text_aligned: bool


@dataclass(frozen=True)
class ImportJob:
    """All that a worker needs to know to import one scene. `teachers`: those that its folder should have."""

    row: ManifestRow
    store: StorePath
    config: ImportConfig
    teachers: tuple[ImportTeacher, ...]
    overwrite: bool = False


def import_scene(job: ImportJob) -> SceneOutcome:
    """Do one scene and say what happened; see `attempt`."""

    def work(watch: Stopwatch) -> SceneOutcome:
        path = scene_path(job.store, job.row)
        if already_published(path, job.row.scene_id, import_fingerprint(job), overwrite=job.overwrite):
            return SceneOutcome(job.row.dataset, job.row.scene_id, "skipped")
        return _publish(job, path, watch)

    return attempt(job.row, job.store, work)


def import_fingerprint(job: ImportJob) -> str:
    """Hash of everything that changes a byte of the scene's cache; the manifest's checksum covers the features."""
    settings = job.config.model_dump(mode="json", exclude={"calibration"})
    settings["alignment"] = job.config.alignment.or_else(job.row.alignment).model_dump()
    teachers = [asdict(teacher) for teacher in job.teachers]
    return cache_fingerprint(
        job.row.sha256, "imported", {"version": IMPORT_VERSION, "settings": settings, "teachers": teachers}
    )


def _publish(job: ImportJob, path: StorePath, watch: Stopwatch) -> SceneOutcome:
    config, row = job.config, job.row
    if not job.teachers:
        raise SceneError(f"{row.scene_path}: has no features beside it (<name>_feat.npy)")
    with watch("read"):
        source = load_scene(row)
        aligned = align_scene(source, config.alignment.or_else(row.alignment), None)
        scene = aligned.scene.validated()
        check_origin(job)
    order = morton_order(scene.means)
    place = np.full(len(source), -1, np.int64)  # matrix row of every row of the file, -1 = left out
    place[scene.source_ids[order]] = np.arange(len(scene))
    seen = np.zeros(len(scene), np.bool_)
    errors: dict[str, dict[str, float]] = {}
    with SceneCacheWriter(path, _header(job, aligned.alignment)) as writer:
        writer.put_no_views(order)
        for teacher in job.teachers:
            table = open_features(row.scene_path, teacher.stem, len(source))
            rows = place[table.rows]
            chosen = np.flatnonzero(rows >= 0)
            chosen = chosen[np.argsort(rows[chosen], kind="stable")]
            if len(chosen) == 0:
                raise SceneError(f"{table.path}: holds features of none of the scene's Gaussians")
            seen[rows[chosen]] = True
            with watch(teacher.plan.name):
                errors[teacher.plan.name] = _write(writer, job, teacher, table, chosen, rows[chosen])
        weight = np.where(seen, np.float32(config.weight), np.float32(0))
        with watch("write"):
            writer.put_visibility(weight, np.zeros(len(scene), np.int32))
            writer.put_gaussians(scene, order)
            writer.put_measures({f"{name}/{key}": v for name, found in errors.items() for key, v in found.items()})
        with watch("publish"):
            published = writer.publish()
    return SceneOutcome(
        row.dataset,
        row.scene_id,
        "done" if published else "skipped",  # another process was first; what it published is the same
        bytes=published_bytes(path),
        n_gaussians=len(scene),
        coverage=float(seen.mean()),
        notes=tuple(finding.line() for finding in aligned.findings if finding.severity in ("note", "warning")),
        errors=errors,
    )


def _write(
    writer: SceneCacheWriter, job: ImportJob, teacher: ImportTeacher, table: FeatureTable, chosen: I64, rows: I64
) -> dict[str, float]:
    """Write the features of `chosen` (places of the table, in the order of the matrix rows `rows`); what storing them
    cost.
    """
    plan = teacher.plan
    standardiser = load_standardiser(job.store, plan)
    check_width(table, plan, standardiser)
    out = writer.add_dense_teacher(
        plan.name, spec=plan.spec, fingerprint=plan.fingerprint, channels=table.channels,
        standardiser=plan.standardiser, bits=job.config.bits, text_aligned=teacher.text_aligned, rows=rows,
    )  # fmt: skip
    cosines = []
    for begin in range(0, len(chosen), BLOCK):
        exact = standardiser.forward(table.read(chosen[begin : begin + BLOCK]))
        cosines.append(row_cosine(exact, out.append(exact)))
    found = np.concatenate(cosines)
    return {"lifted_cosine": float(found.mean()), "lifted_cosine_p01": float(np.quantile(found, 0.01))}


def check_width(table: FeatureTable, plan: TeacherPlan, standardiser: PhiSStandardiser) -> None:
    """Raises SceneError where features are of another width than the store's standardiser of their teacher."""
    if table.channels != standardiser.channels:
        raise SceneError(
            f"{table.path}: has {table.channels} channels, the store's teacher '{plan.name}' has "
            f"{standardiser.channels}; is it another teacher's? --teachers names them"
        )


def check_origin(job: ImportJob) -> None:
    """Raises SceneError where the folder says that its features are another teacher's than the run takes them for."""
    known = read_document(job.row.scene_path).teachers
    for teacher in job.teachers:
        origin, plan = known.get(teacher.stem), teacher.plan
        if origin is None or origin.spec != plan.spec:
            continue  # the user said what they are
        if UNRECORDED not in (origin.fingerprint, plan.fingerprint) and origin.fingerprint != plan.fingerprint:
            raise SceneError(
                f"{job.row.scene_path}: its {teacher.stem} features were made with other weights of '{plan.spec}' than "
                "those of the store's other scenes; import it into another --store"
            )


def _header(job: ImportJob, alignment: Alignment) -> SceneHeader:
    return SceneHeader(
        scene_id=job.row.scene_id,
        dataset=job.row.dataset,
        fingerprint=import_fingerprint(job),
        grid=GridAttributes(width=1, height=1, cell=1),
        settings=job.config.model_dump(mode="json") | {"imported": [teacher.stem for teacher in job.teachers]},
        alignment=AlignmentAttributes(**alignment.as_dict()),
    )


def present_stems(row: ManifestRow) -> tuple[str, ...]:
    """Stems of the features beside a scene; none where it is a file."""
    return stems_of(row.scene_path) if row.scene_path.is_dir() else ()
