"""One scene, whatever becomes of it: bad input of any kind is an outcome with one line, and never stops the others."""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from chorus_common.manifest import ManifestRow
from chorus_common.runtime.allocator import keep_freed_memory
from chorus_common.runtime.bucket import BucketError
from chorus_common.runtime.errors import ChorusError, is_full_disk, one_line
from chorus_common.runtime.peak_memory import peak_memory
from chorus_common.runtime.store_path import StorePath
from stage1_render_teachers.outcomes import SceneOutcome

T = TypeVar("T")


class Stopwatch:
    """Seconds of wall clock per named step; a step may be entered again and again, and from several threads as long as
    no two are in the same step.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[step] = self._seconds.get(step, 0.0) + time.perf_counter() - start

    def seconds(self) -> dict[str, float]:
        return {**self._seconds, "total": time.perf_counter() - self._start}


def timed(items: Iterator[T], watch: Stopwatch, step: str) -> Iterator[T]:
    """The same items; the seconds that they take to make count for `step`."""
    end = object()
    while True:
        with watch(step):
            item = next(items, end)
        if item is end:
            return
        yield item  # type: ignore[misc]  # the end has gone


def attempt(row: ManifestRow, store: StorePath, work: Callable[[Stopwatch], SceneOutcome]) -> SceneOutcome:
    """Do `work` on the scene `row` and say what happened; bad input becomes a failed outcome with one line.

    Only an interrupt and a broken CUDA context get out: the first is the user's wish, the second poisons every scene
    that this process would still do, so a worker ends itself and its keeper starts a fresh one.
    """
    keep_freed_memory()
    watch = Stopwatch()
    try:
        outcome = work(watch)
    except Exception as error:  # poisonous scenes must not stop the others; nothing is swallowed, the line is recorded
        if "CUDA error" in str(error) and in_worker():
            os._exit(70)
        line = failure_line(row.scene_id, store, error)
        outcome = SceneOutcome(row.dataset, row.scene_id, "failed", error=line, transient=is_transient(error))
    return replace(
        outcome,
        seconds=watch.seconds(),
        peak_memory=peak_memory(),
        finished=time.time(),
    )


def is_transient(error: Exception) -> bool:
    """Whether trying again may help: a server that did not answer, a network file system that lost its thread."""
    passing = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ECONNRESET, errno.EBUSY)
    return isinstance(error, BucketError) or (isinstance(error, OSError) and error.errno in passing)


def failure_line(scene_id: str, store: StorePath, error: Exception) -> str:
    """One line that says what is wrong with the scene; for an error nobody foresaw, also where it came up."""
    scene = f"scene {scene_id}: "
    if isinstance(error, ChorusError):
        line = one_line(error)
        return line if scene_id in line else scene + line
    if isinstance(error, OSError) and is_full_disk(error):
        return f"{scene}disk full under {store}; free some space and run the same command again"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{scene}{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"{scene}out of memory; use fewer workers, a smaller batch or a smaller picture"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{scene}{one_line(error)} (at {Path(frame.filename).name}:{frame.lineno})"


def in_worker() -> bool:
    """Whether this process is a dask worker, which its keeper replaces when it ends."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True
