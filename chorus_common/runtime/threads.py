"""Run compiled kernels that release the GIL on a few plain threads.

Why not numba's `parallel=True`: its OpenMP layer aborts a process that forks after first use (a PyTorch DataLoader
does), its built-in layer aborts when two Python threads enter it at once (a dask worker does), and both make
compilation several times slower. Plain threads over `nogil` kernels have none of these limits. Every task writes its
own part of the output, so results never depend on the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def default_threads() -> int:
    """Number of threads for compiled kernels: NUMBA_NUM_THREADS where it is set (>= 1), otherwise the cores this
    process may use."""
    text = os.environ.get("NUMBA_NUM_THREADS", "")
    if text.isdigit() and int(text) >= 1:
        return int(text)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(tasks: Sequence[Callable[[], T]], threads: int) -> list[T]:
    """Results of `tasks` in their order, run by at most `threads` threads (1: run here, without any)."""
    if threads <= 1 or len(tasks) <= 1:
        return [task() for task in tasks]
    with ThreadPoolExecutor(min(threads, len(tasks))) as pool:
        return list(pool.map(lambda task: task(), tasks))


def split_range(n: int, parts: int) -> list[tuple[int, int]]:
    """[0, n) as at most `parts` non-empty ranges of nearly equal length."""
    parts = max(1, min(parts, n))
    return [(n * i // parts, n * (i + 1) // parts) for i in range(parts)] if n else []
