"""Jobs and reports of bench_stage1.py that worker processes import by name."""

from __future__ import annotations

import time
from typing import Any

from stage1_render_teachers.outcomes import SceneOutcome
from stage1_render_teachers.scene_task import SceneJob, run_scene


class Quiet:
    """A progress report that nobody reads."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        pass

    def say(self, line: str) -> None:
        pass


def warm_up(job: int) -> None:
    """Import and compile what a scene needs, in every worker."""

    from chorus_common.lifting import CellGrid
    from chorus_common.rasterize import get_backend
    from tests.stage1.small_rooms import ring_of_cameras, tiny_scene

    cameras = ring_of_cameras(1)
    get_backend("cpu").render(
        tiny_scene(0),
        cameras.viewmats[0],
        cameras.intrinsics[0],
        96,
        72,
        grid=CellGrid(96, 72, 8),
        interpolation="bilinear",
    )
    time.sleep(0.5)  # long enough for every worker to get one


def instant(job: SceneJob) -> SceneOutcome:
    """A scene that takes no time."""
    return SceneOutcome(job.row.dataset, job.row.scene_id, "done", seconds={"total": 0.0}, finished=time.time())


def work_alone(jobs: list[SceneJob], begin: Any, times: Any) -> None:
    """Scenes one after the other in a process of their own; `begin` is a barrier, seconds go into the queue `times`."""
    warm_up(0)
    begin.wait()
    start = time.perf_counter()
    assert all(run_scene(job).status == "done" for job in jobs)
    times.put(time.perf_counter() - start)
