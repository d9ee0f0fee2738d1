"""Job pools: every job exactly once, a poisonous one hurts nobody else."""

from __future__ import annotations

import gc
import json
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from chorus_common.cluster import pool as cluster
from chorus_common.cluster.pool import DaskPool, InProcess, InThreads, WorkerLost, open_pool, worker_environment
from chorus_common.cluster.settings import ClusterConfig
from chorus_common.runtime.errors import ConfigError
from tests.chorus_common.cluster import jobs_for_workers as jobs


@pytest.fixture(scope="module")
def pool() -> Iterator[DaskPool]:
    with open_pool(ClusterConfig(workers=2)) as pool:
        assert isinstance(pool, DaskPool)
        yield pool


def test_workers_have_one_math_thread_and_their_share_of_the_cores(pool: DaskPool) -> None:
    seen: list[object] = []
    pids: set[str] = set()
    deadline = time.monotonic() + 120
    while len(pids) < 2 and time.monotonic() < deadline:  # a worker that starts late misses the first jobs
        seen += [done.result for done in pool.map(jobs.environment, range(6))]
        pids = {result["pid"] for result in seen if isinstance(result, dict)}
    assert len(pids) == 2
    for result in seen:
        assert isinstance(result, dict)
        assert result["OMP_NUM_THREADS"] == "1"
        assert int(result["NUMBA_NUM_THREADS"]) >= 1
        assert result["zarr"] == result["NUMBA_NUM_THREADS"]  # compression does not take the other workers' cores


def test_every_job_comes_back_once_with_its_result(pool: DaskPool) -> None:
    for where in (pool, InProcess()):
        results = [(done.job, done.result) for done in where.map(jobs.double, range(25))]
        assert sorted(results) == [(i, 2 * i) for i in range(25)]


def test_jobs_are_taken_only_as_workers_become_free(pool: DaskPool) -> None:
    taken = []

    def source() -> Iterator[int]:
        for i in range(20):
            taken.append(i)
            yield i

    for finished, _ in enumerate(pool.map(jobs.double, source()), start=1):
        assert len(taken) - finished <= pool.width()


def test_a_poisonous_job_is_tried_twice_and_fails_alone(pool: DaskPool, tmp_path: Path) -> None:
    results = {done.job[0]: done.result for done in pool.map(jobs.die_on_13, [(i, str(tmp_path)) for i in range(24)])}
    assert {number for number, result in results.items() if isinstance(result, WorkerLost)} == {13}
    assert all(results[i] == i for i in range(24) if i != 13)
    calls = Counter(int(mark.name.split("-")[0]) for mark in tmp_path.iterdir())
    assert calls[13] == 2
    # a job that sat on the dying worker may run again, nothing that was finished does
    assert sum(calls.values()) <= 24 + 1 + 2


def test_a_job_whose_worker_died_by_accident_is_done_after_all(pool: DaskPool, tmp_path: Path) -> None:
    results = {done.job[0]: done.result for done in pool.map(jobs.die_once, [(i, str(tmp_path)) for i in range(6)])}
    assert results == {i: i for i in range(6)}


def test_a_bug_in_a_job_is_not_hidden(pool: DaskPool) -> None:
    with pytest.raises(RuntimeError, match="a bug met job"):
        list(pool.map(jobs.broken, range(3)))
    assert [done.result for done in pool.map(jobs.double, [4])] == [8]  # the pool is still usable


def test_each_worker_gets_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa, GPU-bb")
    chosen = [worker_environment(i, 3, "cuda")["CUDA_VISIBLE_DEVICES"] for i in range(3)]
    assert chosen == ["GPU-aa", "GPU-bb", "GPU-aa"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match="no CUDA device is visible"):
        worker_environment(0, 1, "cuda")
    assert "CUDA_VISIBLE_DEVICES" not in worker_environment(0, 1, "cpu")


def test_missing_or_dead_schedulers_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    with pytest.raises(ConfigError, match="no such file"), open_pool(ClusterConfig(scheduler=str(tmp_path / "s.json"))):
        pass
    (tmp_path / "s.json").write_text("{}")
    with (
        pytest.raises(ConfigError, match="not a scheduler file"),
        open_pool(ClusterConfig(scheduler=str(tmp_path / "s.json"))),
    ):
        pass
    (tmp_path / "s.json").write_text('{"address": "tcp://127.0.0.1:9"}')
    with (
        pytest.raises(ConfigError, match="no scheduler answers"),
        open_pool(ClusterConfig(scheduler=str(tmp_path / "s.json"))),
    ):
        pass


def test_a_scheduler_file_is_used(tmp_path: Path) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as running:
        file = tmp_path / "scheduler.json"
        file.write_text(json.dumps(running.scheduler.identity()))
        with open_pool(ClusterConfig(scheduler=str(file))) as pool:
            assert sorted(done.result for done in pool.map(jobs.double, range(5))) == [0, 2, 4, 6, 8]


def test_threads_do_every_job_and_hand_on_what_a_job_raises() -> None:
    pool = InThreads(3)
    assert sorted(done.result for done in pool.map(jobs.double, range(7))) == list(range(0, 14, 2))
    with pytest.raises(RuntimeError, match="a bug met job"):
        list(pool.map(jobs.broken, range(2)))


@pytest.mark.parametrize("size", ["lots", "8 apples"])
def test_bad_memory_limits_are_refused(size: str) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        cluster._memory_limit(ClusterConfig(workers=1, worker_memory=size))


def test_the_client_does_not_grow_with_the_number_of_jobs() -> None:
    """Bytes that stay per job, once the scheduler's logs are full: a million scenes must not fill a login node."""
    with open_pool(ClusterConfig(workers=2)) as pool:
        tracemalloc.start()
        try:
            list(pool.map(jobs.double, range(300)))
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            list(pool.map(jobs.double, range(500)))
            gc.collect()
            kept = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    assert kept / 500 < 1_000
