"""One function over many things, in this process or on several, results as they come."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar, cast

from chorus_common.runtime.errors import ChorusError

Item = TypeVar("Item")
Result = TypeVar("Result")


def each_as_done(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int, *, start: Callable[[], None] | None = None
) -> Iterator[tuple[Item, Result]]:
    """(item, work(item)) for every item: in order with one worker, as they are done with more.

    Args:
        work: picklable where there are several workers. It goes to each of them once, however large it is.
        start: called once in every worker process; not without them.

    What `work` raises is raised here. Raises ChorusError where a worker process died. Results that have been handed out
    are the caller's; where it stops listening, what has not begun is not begun.
    """
    held = list(items)
    if workers <= 1 or len(held) <= 1:
        for item in held:
            yield item, work(item)
        return
    # `spawn`: a forked process would inherit locks of the parent's threads.
    with (
        TemporaryDirectory(prefix="chorus-work-") as folder,
        ProcessPoolExecutor(min(workers, len(held)), mp_context=get_context("spawn"), initializer=start) as pool,
    ):
        path = Path(folder) / "work.pickle"
        path.write_bytes(pickle.dumps(work))
        left = iter(held)
        running: dict[Future[object], Item] = {}
        try:
            while True:
                while len(running) < 2 * workers and (following := next(left, None)) is not None:
                    running[pool.submit(_call, str(path), following)] = following
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future), cast(Result, future.result())
        except BrokenProcessPool:
            raise ChorusError(
                "a worker process died (out of memory?); what is finished is kept: use fewer --workers and run it again"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def in_child(work: Callable[..., Result], *arguments: object) -> Result:
    """work(*arguments) in a process of its own, whose memory is given back afterwards.

    It is for what loads large libraries or weights to learn a few numbers.

    What `work` raises is raised here. Raises ChorusError where the process died.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(work, *arguments).result()
        except BrokenProcessPool:
            raise ChorusError(f"a process died while it ran {work.__name__} (out of memory?)") from None


@functools.cache
def _read(path: str) -> Callable[[object], object]:
    """In a worker process: the work that the parent wrote."""
    return cast(Callable[[object], object], pickle.loads(Path(path).read_bytes()))


def _call(path: str, item: object) -> object:
    return _read(path)(item)
