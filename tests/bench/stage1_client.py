"""A client that hands out scenes of which nothing is asked: what it costs by itself.

`python -m tests.bench.stage1_client` prints its figures.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from chorus_common.cluster.pool import open_pool
from chorus_common.manifest import ManifestRow
from stage1_render_teachers.outcomes import OutcomeLog
from stage1_render_teachers.plan import teacher_facts
from stage1_render_teachers.run import run_jobs
from stage1_render_teachers.scene_task import SceneJob
from stage1_render_teachers.settings import RunConfig, Stage1Config
from tests.bench.stage1_jobs import Quiet, instant


@dataclass(frozen=True)
class ClientCost:
    """CPU and wall milliseconds per scene; resident bytes after the first thousand scenes and after all."""

    milliseconds: float
    wall_milliseconds: float
    first_bytes: int
    last_bytes: int


def client_of(scenes: int = 10_000) -> ClientCost:
    """`scenes` scenes through the real engine with two workers: teachers looked at, jobs handed out, outcomes written.
    The client hosts the scheduler.
    """
    config, run = Stage1Config(), RunConfig(workers=2)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        row = ManifestRow("dry", "s", "train", "npy", root, None, "", 1, "0" * 64)

        def jobs(count: int) -> Iterator[SceneJob]:
            return (SceneJob(row, root, config, ()) for _ in range(count))

        with open_pool(run) as pool, OutcomeLog(root) as log:
            teacher_facts(config, run)
            run_jobs(jobs(1000), pool, instant, log, Quiet())
            first, start, wall = resident(), time.process_time(), time.perf_counter()
            summary = run_jobs(jobs(scenes - 1000), pool, instant, log, Quiet())
            cpu, wall = time.process_time() - start, time.perf_counter() - wall
            last = resident()
    count = summary.counts["done"]
    assert count == scenes - 1000
    return ClientCost(1e3 * cpu / count, 1e3 * wall / count, first, last)


def resident() -> int:
    """Bytes of memory that this process holds now, after the garbage has been collected."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    print(client_of())
