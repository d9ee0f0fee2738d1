"""Progress of a long job: a bar on a terminal, a plain line now and then in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO


class Progress(Protocol):
    """What a job reports to."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """`steps` more are done; `note` is a short standing text such as "2 failed"."""
        ...

    def say(self, line: str) -> None:
        """A line that stays, such as the reason why something failed."""
        ...


@contextmanager
def progress(
    total: int, label: str, *, done: int = 0, every: float = 10.0, stream: TextIO | None = None, bar: bool = True
) -> Iterator[Progress]:
    """Report on `total` steps, of which `done` were finished before (they do not count for the rate).

    On a terminal a bar with counts, rate and time left; otherwise one line at most every `every` seconds, which is what
    a log file wants. Goes to stderr unless told otherwise, so that output meant for programs stays clean. bar=False
    writes lines on a terminal, too: for a job within a job, whose bar is there already.
    """
    stream = stream or sys.stderr
    if bar and stream.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        with RichProgress(*columns, console=Console(file=stream)) as drawn:
            task = drawn.add_task(label, total=total, completed=done, note="")
            yield _Bar(drawn, task)
        return
    lines = _Lines(total, label, done, every, stream)
    yield lines
    lines.finish()


class _Bar:
    def __init__(self, bar: object, task: object) -> None:
        self._bar, self._task = bar, task

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._bar.update(self._task, advance=steps, note=note)  # type: ignore[attr-defined]

    def say(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False)  # type: ignore[attr-defined]


class _Lines:
    def __init__(self, total: int, label: str, done: int, every: float, stream: TextIO) -> None:
        self._total, self._label, self._every, self._stream = total, label, every, stream
        self._before = self._done = done
        self._start = self._last = time.monotonic()
        self._note, self._shown = "", -1

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        self._note = note
        if time.monotonic() - self._last >= self._every:
            self._print()

    def say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def finish(self) -> None:
        if self._shown != self._done:
            self._print()

    def _print(self) -> None:
        self._last = now = time.monotonic()
        self._shown = self._done
        elapsed, fresh = now - self._start, self._done - self._before
        left = (
            f", {duration((self._total - self._done) * elapsed / fresh)} left"
            if fresh > 0 and self._done < self._total
            else ""
        )
        note = f" ({self._note})" if self._note else ""
        print(
            f"{self._label}: {self._done}/{self._total}{note}, {duration(elapsed)}{left}", file=self._stream, flush=True
        )


def duration(seconds: float) -> str:
    """A length of time for people: "8 s", "3 min 20 s", "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
