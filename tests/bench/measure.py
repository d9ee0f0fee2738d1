"""Times of two alternatives that take turns, so that whatever else the machine does hits both alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.bench.row import Row


@dataclass(frozen=True)
class Rounds:
    """Times of ours and of the baseline, a pair per round."""

    ours: tuple[float, ...]
    baseline: tuple[float, ...]

    def row(
        self, name: str, unit: str, command: str, baseline: str, *, times_faster: bool = False, scale: float = 1.0
    ) -> Row:
        """A row of medians, with the spread of the rounds' ratios (the medians' ratio lies within it).

        Args:
            times_faster: the ratio is baseline / ours. scale: from the times to the row's unit.
        """
        ratios = [b / a if times_faster else a / b for a, b in zip(self.ours, self.baseline)]
        ours, theirs = median(self.ours), median(self.baseline)
        ratio = theirs / ours if times_faster else ours / theirs
        spread = (min(ratios), max(ratios))
        return Row(name, ours * scale, unit, ratio, command, baseline, theirs * scale, spread)


def interleaved(
    ours: Callable[[], Any],
    baseline: Callable[[], Any],
    *,
    rounds: int = 5,
    repeats: int = 1,
    clock: Callable[[], float] = time.process_time,
) -> Rounds:
    """`rounds` pairs of times, each pair in one go; both are called once before, to compile and to fill caches.

    Args:
        repeats: calls of `ours` per round, of which the mean counts; for what is over in milliseconds.
        clock: CPU seconds of this process, which other work on the machine enters least; or time.perf_counter for what
            runs on several threads.
    """
    ours()
    baseline()
    pairs = [(seconds(ours, repeats, clock), seconds(baseline, 1, clock)) for _ in range(rounds)]
    return Rounds(tuple(a for a, _ in pairs), tuple(b for _, b in pairs))


def seconds(work: Callable[[], Any], repeats: int = 1, clock: Callable[[], float] = time.process_time) -> float:
    """Mean seconds of `repeats` calls."""
    begin = clock()
    for _ in range(repeats):
        work()
    return (clock() - begin) / repeats
