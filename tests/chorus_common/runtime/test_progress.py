"""Progress reports: what a log file gets, and what a terminal gets."""

from __future__ import annotations

import io

import pytest

from chorus_common.runtime.progress import duration, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_plain_lines_with_counts_and_notes() -> None:
    log = io.StringIO()
    with progress(4, "rooms", every=0, stream=log) as report:
        report.advance()
        report.say("failed: room 2")
        report.advance(note="1 failed")
        report.advance(2, note="1 failed")
    lines = log.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "rooms: 1/4",
        "failed: room 2",
        "rooms: 2/4 (1 failed)",
        "rooms: 4/4 (1 failed)",
    ]
    assert " left" in lines[0]
    assert " left" not in lines[-1]
    assert "\r" not in log.getvalue()


def test_a_log_is_not_flooded_but_always_gets_the_end() -> None:
    log = io.StringIO()
    with progress(1000, "rooms", every=1e6, stream=log) as report:
        for _ in range(1000):
            report.advance()
    assert len(log.getvalue().splitlines()) == 1
    assert log.getvalue().startswith("rooms: 1000/1000")


def test_a_terminal_gets_a_bar_and_lines_are_not_markup() -> None:
    terminal = Terminal()
    with progress(2, "rooms", stream=terminal) as report:
        report.advance(note="0 failed")
        report.say("failed: [bold]room[/bold]")
        report.advance()
    assert "2/2" in terminal.getvalue()
    assert "[bold]room[/bold]" in terminal.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3600, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_job_within_a_job_writes_lines_on_a_terminal_too() -> None:
    terminal = Terminal()
    with progress(2, "views", every=0, stream=terminal, bar=False) as report:
        report.advance(2)
    assert terminal.getvalue().startswith("views: 2/2, ")
    assert "\x1b" not in terminal.getvalue()
