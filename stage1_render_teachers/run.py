"""Many scenes: settle the plan, calibrate where standardisers are missing, then every scene once, whatever becomes of
the others.

What is done is what is published; a run can be killed at any moment and started again with the same command.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from chorus_common.cache import sweep_orphans
from chorus_common.cluster.pool import Finished, Pool, WorkerLost, open_pool
from chorus_common.manifest import ManifestRow
from chorus_common.rasterize import get_backend
from chorus_common.runtime.progress import Progress, progress
from chorus_common.runtime.store_path import StorePath
from stage1_render_teachers.calibrate import Job, calibrate, missing_standardisers
from stage1_render_teachers.outcomes import OutcomeLog, SceneOutcome
from stage1_render_teachers.plan import TeacherFacts, plan_teachers, teacher_facts
from stage1_render_teachers.scene_task import SceneJob, run_scene
from stage1_render_teachers.settings import RunConfig, Stage1Config
from stage1_render_teachers.store import prepare_store


@dataclass(frozen=True)
class RunSummary:
    """What a run did. `failures`: "dataset/scene_id" -> one line; `mostly_empty`: scenes whose views show
    next to nothing.
    """

    counts: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    mostly_empty: tuple[str, ...] = ()
    seconds: float = 0.0
    bytes: int = 0
    stopped_early: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_stage1(
    rows: Sequence[ManifestRow], store: StorePath, config: Stage1Config, run: RunConfig,
    *, calibration_rows: Sequence[ManifestRow] | None = None,
) -> RunSummary:  # fmt: skip
    """Publish the cache of every scene in `rows` under `store`.

    `calibration_rows` is what missing standardisers are fitted on (default: `rows`); shards pass the whole manifest, so
    that they all fit the same standardisers. Raises ChorusError for what concerns the run as a whole; scenes fail one
    by one.
    """
    started = time.time()
    prepare_store(store)
    if run.scheduler == "local":  # elsewhere the workers have what this machine may lack
        get_backend(config.rasterizer)
    for dataset in sorted({row.dataset for row in rows}):
        sweep_orphans(store / dataset, older_than=started)
    with open_pool(run) as pool:
        teachers = teacher_facts(config, run)
        ensure_standardisers(calibration_rows or rows, store, teachers, config, run, pool)
        plans = plan_teachers(store, teachers)
        alone = run.works_here and len(rows) == 1
        jobs = [SceneJob(row, store, config, plans, run.device, run.overwrite, show_views=alone) for row in rows]
        with progress(len(jobs), "stage 1") as report, OutcomeLog(store) as log:
            return run_jobs(jobs, pool, run_scene, log, report, run.max_failures, run.retries)


def run_jobs(
    jobs: Iterable[Job], pool: Pool, task: Callable[[Job], SceneOutcome], log: OutcomeLog | None, report: Progress,
    max_failures: int = 0, retries: int = 0,
) -> RunSummary:  # fmt: skip
    """Put `jobs` through `pool`, record every outcome in `log`, and stop early after `max_failures` (0 = never).

    What failed for a reason that may pass is tried again after all others, up to `retries` times.
    """
    started = time.monotonic()
    counts: Counter[str] = Counter()
    failures: dict[str, str] = {}
    size = 0
    stopped = False
    empty: list[str] = []
    finished = _with_retries(jobs, pool, task, retries, report)
    for done in finished:
        row = done.job.row
        outcome = done.result
        if isinstance(outcome, WorkerLost):
            line = f"scene {row.scene_id}: {outcome.reason}, twice; is it too large for worker_memory?"
            outcome = SceneOutcome(row.dataset, row.scene_id, "failed", line, finished=time.time())
        if log is not None:
            log.add(outcome)
        counts[outcome.status] += 1
        size += outcome.bytes
        if outcome.status == "failed":
            failures[outcome.key] = outcome.error
            report.say(f"failed: {outcome.key}: {outcome.error}")
        for note in outcome.notes:
            report.say(f"{outcome.key}: {note}")
        if outcome.mostly_empty:
            empty.append(outcome.key)
            report.say(
                f"{outcome.key}: warning: {outcome.empty_pixels:.0%} of its views' pixels are empty; do the cameras "
                "belong to it? chorus-data check tells"
            )
        report.advance(note=f"{counts['failed']} failed" if counts["failed"] else "")
        if max_failures and counts["failed"] >= max_failures:
            stopped = True
            break
    finished.close()
    return RunSummary(dict(counts), failures, tuple(empty), time.monotonic() - started, size, stopped)


def _with_retries(
    jobs: Iterable[Job], pool: Pool, task: Callable[[Job], SceneOutcome], retries: int, report: Progress
) -> Generator[Finished[Job, SceneOutcome], None, None]:
    """Every job once, with its last outcome."""
    for tries_left in range(retries, -1, -1):
        again: list[Job] = []
        for done in pool.map(task, jobs):
            outcome = done.result
            if tries_left and not isinstance(outcome, WorkerLost) and outcome.transient:
                report.say(f"to be tried again: {outcome.key}: {outcome.error}")
                again.append(done.job)
            else:
                yield done
        jobs = again


def ensure_standardisers(
    rows: Sequence[ManifestRow],
    store: StorePath,
    teachers: Sequence[TeacherFacts],
    config: Stage1Config,
    run: RunConfig,
    pool: Pool,
) -> list[StorePath]:
    """Fit the standardisers that `store` lacks; the paths of those that were fitted now."""
    missing = missing_standardisers(store, teachers)
    if not missing:
        return []
    with progress(min(config.calibration.scenes, len(rows)), "calibration") as report:
        return calibrate(rows, store, missing, config, run.device, pool, report)
