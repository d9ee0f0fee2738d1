"""Many scenes: which features there are and whose, their standardisers, then every scene once.

What is done is what is published; an import can be killed at any moment and started again with the same command.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from chorus_common.cache import sweep_orphans
from chorus_common.cache.names import UNRECORDED
from chorus_common.cluster.pool import Pool, open_pool
from chorus_common.features.standardise import Moments, PhiSStandardiser, phi_s
from chorus_common.manifest import ManifestRow
from chorus_common.runtime.errors import ConfigError, SceneError, one_line
from chorus_common.runtime.progress import progress
from chorus_common.runtime.store_path import StorePath
from chorus_common.text import has_text_side
from stage1_render_teachers.calibrate import SceneMoments, draw_rows, merged_moments, save_standardiser
from stage1_render_teachers.exchange.feature_files import IMPORTED, TeacherOrigin, open_features, read_document
from stage1_render_teachers.exchange.import_scene import ImportJob, ImportTeacher, import_scene, present_stems
from stage1_render_teachers.exchange.settings import ImportConfig
from stage1_render_teachers.outcomes import OutcomeLog
from stage1_render_teachers.plan import TeacherPlan, standardiser_path
from stage1_render_teachers.run import RunSummary, run_jobs
from stage1_render_teachers.settings import RunConfig
from stage1_render_teachers.store import prepare_store
from stage1_render_teachers.teachers.protocol import teacher_name


@dataclass(frozen=True)
class FeatureSample:
    """A draw of one scene's features of one stem, for its standardiser."""

    row: ManifestRow
    stem: str
    rows: int
    seed: int


def run_import(
    rows: Sequence[ManifestRow], store: StorePath, config: ImportConfig, run: RunConfig, specs: Mapping[str, str],
    names: Mapping[str, str] | None = None, *, calibration_rows: Sequence[ManifestRow] | None = None,
) -> RunSummary:  # fmt: skip
    """Publish the cache of every scene in `rows` under `store` from the features beside it.

    specs: stem -> teacher's spec ("" = what the folders say, or `imported:<stem>`); of every scene just these stems
    are taken, and a scene without one of them fails. None named: whatever lies beside each scene.
    names: stem -> what its teacher is called in the store; by default as its spec is.
    `calibration_rows`: what missing standardisers are fitted on (default: `rows`); shards pass the whole manifest.
    Raises ChorusError for what concerns the import as a whole; scenes fail one by one.
    """
    started = time.time()
    prepare_store(store)
    for dataset in sorted({row.dataset for row in rows}):
        sweep_orphans(store / dataset, older_than=started)
    everything = calibration_rows or rows
    having: dict[str, list[ManifestRow]] = {stem: [] for stem in specs}
    for row in everything:
        for stem in present_stems(row):
            if stem in specs or not specs:
                having.setdefault(stem, []).append(row)
    absent = [stem for stem, found in having.items() if not found] if having else ["<name>"]
    if absent:
        raise ConfigError(
            f"none of {len(everything)} scenes has {absent[0]}_feat.npy beside it; chorus-data index makes a manifest "
            "of the folders that hold features"
        )
    origins = {stem: origin_of(stem, specs.get(stem, ""), having[stem]) for stem in sorted(having)}
    called = {stem: (names or {}).get(stem) or teacher_name(origin.spec) for stem, origin in origins.items()}
    if len(set(called.values())) < len(called):
        listed = ", ".join(called.values())
        raise ConfigError(f"two kinds of features are of one teacher ({listed}); --teachers tells them apart")
    with open_pool(run) as pool:
        teachers = {
            stem: _planned(stem, called[stem], origin, having[stem], store, config, pool)
            for stem, origin in origins.items()
        }
        jobs = [
            ImportJob(
                row, store, config, tuple(teachers[stem] for stem in sorted(specs) or present_stems(row)), run.overwrite
            )
            for row in rows
        ]
        with progress(len(jobs), "import") as report, OutcomeLog(store) as log:
            return run_jobs(jobs, pool, import_scene, log, report, run.max_failures, run.retries)


def origin_of(stem: str, spec: str, rows: Sequence[ManifestRow]) -> TeacherOrigin:
    """Whose features of `stem` these are: as the user says, else as the folders do, else nobody known."""
    told = next((found for row in rows if (found := _told(row, stem)) is not None), None)
    if told is not None and spec in ("", told.spec):
        return told
    spec = spec or f"{IMPORTED}{stem}"
    return TeacherOrigin(spec=spec, text_aligned=has_text_side(spec))


def _told(row: ManifestRow, stem: str) -> TeacherOrigin | None:
    try:
        return read_document(row.scene_path).teachers.get(stem)
    except SceneError:  # the scene itself will fail with this line
        return None


def _planned(
    stem: str, name: str, origin: TeacherOrigin, rows: Sequence[ManifestRow], store: StorePath, config: ImportConfig,
    pool: Pool,
) -> ImportTeacher:  # fmt: skip
    """A teacher with its standardiser, which is fitted where the store has none. Raises ConfigError for another's."""
    path = standardiser_path(store, name)
    if not path.is_file():
        sample = config.calibration
        jobs = [FeatureSample(row, stem, sample.rows, config.seed) for row in draw_rows(rows, config.seed)]
        with progress(min(sample.scenes, len(jobs)), f"calibration of {stem}") as report:
            moments = merged_moments(jobs, sample.scenes, sampled_moments, pool, report)[stem]
        fitted = phi_s(moments, spec=origin.spec, teacher_fingerprint=origin.fingerprint, seed=config.seed)
        save_standardiser(fitted, path, overwrite=False)
    standardiser = PhiSStandardiser.load(path)
    if UNRECORDED not in (standardiser.teacher_fingerprint, origin.fingerprint) and (
        standardiser.teacher_fingerprint != origin.fingerprint
    ):
        raise ConfigError(
            f"{stem}: was made with other weights of '{origin.spec}' than {path} was fitted on; use another --store"
        )
    plan = TeacherPlan(origin.spec, name, True, origin.fingerprint, standardiser.fingerprint)
    return ImportTeacher(stem, plan, origin.text_aligned)


def sampled_moments(job: FeatureSample) -> SceneMoments:
    """Moments of a seeded draw of one scene's features. Never raises for bad input."""
    try:
        table = open_features(job.row.scene_path, job.stem, job.row.n_gaussians)
        if len(table) == 0:
            raise SceneError(f"{table.path}: holds no features")
        key = f"{job.row.dataset}/{job.row.scene_id}/{job.stem}"
        rng = np.random.default_rng([job.seed, zlib.crc32(key.encode())])
        chosen = np.sort(rng.choice(len(table), min(job.rows, len(table)), replace=False))
        return SceneMoments({job.stem: Moments.of(table.read(chosen))})
    except Exception as error:  # the import goes on without this scene; the line says why
        return SceneMoments(error=f"scene {job.row.scene_id}: {one_line(error)}")
