"""Kernels on plain threads: order of results, bad settings, fork after use, several callers at once."""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from chorus_common.lifting import CellGrid, CellHits, LiftingIndex
from chorus_common.runtime.threads import default_threads, run_tasks, split_range


def small_lift(seed: int) -> bytes:
    """The bytes of a lift over 300 Gaussians, in enough tasks to use several threads."""
    rng = np.random.default_rng(seed)
    grid = CellGrid(64, 64, 4)
    cells, ids = np.nonzero(rng.uniform(size=(grid.cells, 300)) < 0.5)
    hits = CellHits(cells.astype(np.int32), ids.astype(np.int32), rng.uniform(0.1, 1, len(cells)).astype(np.float32))
    index = LiftingIndex.build([hits], rng.normal(size=(300, 3)), grid)
    return index.lift(rng.normal(size=(index.n_columns, 8)))[0].tobytes()


def test_results_come_in_the_order_of_the_tasks() -> None:
    tasks = [partial(pow, k, 2) for k in range(50)]
    for threads in (1, 2, 7):
        assert run_tasks(tasks, threads) == [k * k for k in range(50)]
    assert run_tasks([], 4) == []


def test_an_error_in_a_task_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        run_tasks([partial(divmod, 1, 0), partial(divmod, 1, 1)], 2)


def test_ranges_cover_everything_once() -> None:
    for n, parts in ((0, 4), (1, 4), (10, 3), (12, 4)):
        ranges = split_range(n, parts)
        assert [i for a, b in ranges for i in range(a, b)] == list(range(n))
        assert all(b > a for a, b in ranges)


def test_thread_count_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    assert default_threads() == 3
    for nonsense in ("", "0", "many"):
        monkeypatch.setenv("NUMBA_NUM_THREADS", nonsense)
        assert default_threads() >= 1


def test_several_callers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    want = [small_lift(seed) for seed in range(6)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(small_lift, range(6))) == want


@pytest.mark.skipif(sys.platform != "linux", reason="fork")
def test_kernels_run_in_a_process_forked_after_their_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "2")
    want = small_lift(0)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(small_lift, (0,)).get(timeout=60) == want
