"""Three steps of a scene at a time: while the teachers look at a batch of views, the next one is rendered and the last
one is standardised, quantised and written (double buffering). A GPU then does not wait for the CPU.

Batches stay in order in each step, so nothing about it changes a byte. At most three batches are held at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")


def teachers_run_elsewhere(device: str) -> bool:
    """Whether steps should overlap: teachers are on a GPU, not on the cores that the other steps need. On a CPU nobody
    waits for anything, and two more batches would fill the memory.

    To be asked after the teachers are built: if none of them has loaded torch, none is on a GPU.
    """
    if device == "cpu" or "torch" not in sys.modules:
        return False
    from chorus_common.runtime.devices import pick_device

    return pick_device(device).type != "cpu"


class Aside(Protocol):
    """Takes tasks that need not be done before the caller goes on."""

    def __call__(self, task: Callable[[], None]) -> None: ...


@contextmanager
def made_ahead(items: Iterator[T], *, overlap: bool) -> Iterator[Iterator[T]]:
    """The same items; with `overlap` a thread makes the next one while the caller works on this one."""
    if not overlap:
        yield items
        return
    with ThreadPoolExecutor(1, thread_name_prefix="render") as thread:
        yield _one_ahead(items, thread)


def _one_ahead(items: Iterator[T], thread: ThreadPoolExecutor) -> Iterator[T]:
    end = object()
    following: Future[T | object] = thread.submit(next, items, end)
    while (item := following.result()) is not end:
        following = thread.submit(next, items, end)
        yield item  # type: ignore[misc]  # the end has gone


@contextmanager
def done_aside(*, overlap: bool) -> Iterator[Aside]:
    """What is given is done at once, or with `overlap` by one thread, in order. At the end of the block all is done.

    The caller waits while the task before is still going on. What a task raises is raised at the next one, or at the
    end of the block.
    """
    if not overlap:
        yield lambda task: task()
        return
    running: Future[None] | None = None

    def give(task: Callable[[], None]) -> None:
        nonlocal running
        if running is not None:
            running.result()
        running = thread.submit(task)

    with ThreadPoolExecutor(1, thread_name_prefix="store") as thread:
        yield give
        if running is not None:
            running.result()
