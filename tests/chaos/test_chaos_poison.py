"""A scene that crashes its worker and one that eats its memory fail alone; every other scene is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from chorus_common.cluster.pool import open_pool
from chorus_common.manifest import Manifest
from stage1_render_teachers.outcomes import OutcomeLog, read_outcomes
from stage1_render_teachers.plan import describe_teachers, plan_teachers
from stage1_render_teachers.run import run_jobs, run_stage1
from stage1_render_teachers.scene_task import SceneJob
from stage1_render_teachers.settings import RunConfig
from tests.bench.stage1_jobs import Quiet
from tests.chaos.poison import CRASHES, EATS, poisoned_scene
from tests.stage1.small_rooms import CONFIG, tree_digest, write_rooms

pytestmark = pytest.mark.slow


def test_poison_scenes_fail_alone(tmp_path: Path) -> None:
    rows = list(Manifest.read(write_rooms(tmp_path / "rooms", 12)))
    calm, store = tmp_path / "calm", tmp_path / "store"
    run_stage1(rows, calm, CONFIG, RunConfig())
    run_stage1(rows[:0], store, CONFIG, RunConfig(), calibration_rows=rows)
    plans = plan_teachers(store, describe_teachers(CONFIG, "cpu"))
    jobs = [SceneJob(row, store, CONFIG, plans) for row in rows]
    with open_pool(RunConfig(workers=2, worker_memory="1500MB")) as pool, OutcomeLog(store) as log:
        summary = run_jobs(jobs, pool, poisoned_scene, log, Quiet())
    assert summary.counts == {"done": 10, "failed": 2}
    assert set(summary.failures) == {f"tiny/{CRASHES}", f"tiny/{EATS}"}
    assert all("worker process died" in line and "twice" in line for line in summary.failures.values())
    assert {key for key, outcome in read_outcomes(store).items() if outcome.error} == set(summary.failures)
    expected = {
        name: digest for name, digest in tree_digest(calm / "tiny").items() if not name.startswith((CRASHES, EATS))
    }
    assert tree_digest(store / "tiny") == expected
    assert run_stage1(rows, store, CONFIG, RunConfig()).counts == {"done": 2, "skipped": 10}
    assert tree_digest(store / "tiny") == tree_digest(calm / "tiny")
