"""Jobs that worker processes import by name; they cannot live in a test module."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import zarr


def double(job: int) -> int:
    return 2 * job


def environment(job: int) -> dict[str, str]:
    time.sleep(0.2)  # long enough for every worker to get one
    return {name: os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")} | {
        "pid": str(os.getpid()),
        "zarr": str(zarr.config.get("threading.max_workers")),
    }


def die_on_13(job: tuple[int, str]) -> int:
    """Job 13 kills its worker; every call leaves a mark."""
    number, folder = job
    Path(folder, f"{number}-{time.monotonic_ns()}").touch()
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return number


def die_once(job: tuple[int, str]) -> int:
    number, folder = job
    mark = Path(folder, f"tried-{number}")
    if number == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def broken(job: int) -> int:
    raise RuntimeError(f"a bug met job {job}")
