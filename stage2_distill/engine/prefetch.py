"""Preparing batches ahead of the training step, in order, on threads.

Threads and not processes: the work is numpy and compiled kernels that release the GIL, remembered targets are shared
instead of held once per worker, nothing is pickled, and nothing can go wrong with forks. Batches come in the order of
the steps whatever the number of threads.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Iterate make(first), make(first + 1), ..., make(last - 1), up to `prefetch` of them in preparation on `workers`
    threads.

    `waited` is the time in seconds that the consumer spent waiting for the item it got last.
    """

    def __init__(self, make: Callable[[int], T], first: int, last: int, *, workers: int, prefetch: int) -> None:
        self._make, self._range, self._workers, self._prefetch = make, range(first, last), workers, prefetch
        self.waited = 0.0

    def __iter__(self) -> Iterator[T]:
        if self._workers == 0:
            for number in self._range:
                start = time.perf_counter()
                item = self._make(number)
                self.waited = time.perf_counter() - start
                yield item
            return
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="data")
        try:
            numbers = iter(self._range)
            pending: deque[Future[T]] = deque()
            for number in numbers:
                pending.append(pool.submit(self._make, number))
                if len(pending) < self._prefetch:
                    continue
                yield self._take(pending)
            while pending:
                yield self._take(pending)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _take(self, pending: deque[Future[T]]) -> T:
        start = time.perf_counter()
        item = pending.popleft().result()
        self.waited = time.perf_counter() - start
        return item
