"""How benchmarks measure: rounds that take turns, a ratio of medians with its spread, floors."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tests.bench.floors import FLOORS, table
from tests.bench.measure import Rounds, interleaved
from tests.bench.row import Row

times = st.floats(1e-6, 1e3)


@given(st.lists(st.tuples(times, times), min_size=1, max_size=9), st.booleans())
def test_the_ratio_of_medians_lies_within_the_spread(pairs: list[tuple[float, float]], times_faster: bool) -> None:
    rounds = Rounds(tuple(a for a, _ in pairs), tuple(b for _, b in pairs))
    row = rounds.row("a/b", "s", "make bench", "theirs", times_faster=times_faster)
    assert row.spread is not None
    low, high = row.spread
    assert low * (1 - 1e-9) <= row.ratio <= high * (1 + 1e-9)
    assert row.baseline_value is not None
    same = row.baseline_value / row.value if times_faster else row.value / row.baseline_value
    assert abs(row.ratio - same) <= 1e-9 * same


def test_alternatives_take_turns_after_one_call_each() -> None:
    calls: list[str] = []
    clock = iter(range(1000))
    rounds = interleaved(
        lambda: calls.append("ours"), lambda: calls.append("theirs"), rounds=2, repeats=3, clock=lambda: next(clock)
    )
    assert calls == ["ours", "theirs", *["ours"] * 3, "theirs", *["ours"] * 3, "theirs"]
    assert rounds == Rounds((1 / 3, 1 / 3), (1, 1))


def test_every_row_has_a_spread_in_the_file() -> None:
    lone = Row("a/b", 2.0, "MB", 2.0, "make bench").as_dict()
    assert json.loads(json.dumps(lone))["spread"] == [2.0, 2.0]


def test_the_table_says_in_how_many_runs_a_floor_held() -> None:
    name, floor = "lift/index-vs-pixels", FLOORS["lift/index-vs-pixels"]
    runs = [
        [Row(name, 1.0, "s", ratio, "make bench", "pixels", ratio, (ratio - 1, ratio + 1)).as_dict()]
        for ratio in (floor.bound + 5, floor.bound, floor.bound - 0.1)
    ]
    line = table(runs).splitlines()[-1]
    assert line.endswith("| >= 50 | 2 of 3 |")
    assert "| 48.9 to 56 |" in line
