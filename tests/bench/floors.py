"""What the project asks of its own ratios, and the table of docs/experiments/benchmarks.md.

    python -m tests.bench.floors runs/bench/results.json [more runs ...]

prints the table of one run or of several: with several, figures are those of the first, ratios go from the least to the
largest of all rounds of all runs, and the last column says in how many runs the floor held.
"""

from __future__ import annotations

import json
import operator
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Floor:
    """A ratio (or a figure without a baseline) must be at most, or at least, `bound`."""

    sign: str
    bound: float

    def holds(self, ratio: float) -> bool:
        compare: Callable[[float, float], bool] = operator.le if self.sign == "<=" else operator.ge
        return compare(ratio, self.bound)

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:g}"


FLOORS = {
    "cache/import-ratio": Floor("<=", 0.3),
    "cache/lifted-above-0.98": Floor(">=", 0.99),
    "cache/lifted-cosine": Floor(">=", 0.995),
    "demo/starvation-share": Floor("<=", 0.03),
    "encoder/chorus-vs-scenesplat-memory": Floor("<=", 0.25),
    "encoder/chorus-vs-scenesplat-step": Floor(">=", 4),
    "encoder/official-lang": Floor("<=", 0.75),
    "encoder/sonata-forward-60k": Floor("<=", 0.333),
    "encoder/sonata-forward-60k-memory": Floor("<=", 0.5),
    "fields/query": Floor(">=", 2),
    "lift/index-vs-pixels": Floor(">=", 50),
    "metrics/instance-vs-official-algorithm": Floor(">=", 60),
    "metrics/semantic-vs-official-algorithm": Floor(">=", 20),
    "points/coincident": Floor("<=", 2),
    "query/official": Floor("<=", 0.65),
    "scale/dry-run-ms-per-scene": Floor("<=", 5),
    "scale/two-workers": Floor(">=", 1.85),
    "stage1/overhead-share": Floor("<=", 0.15),
    "stage2/starvation-share": Floor("<=", 0.05),
    "teachers/sam-onnx-batched": Floor("<=", 0.333),
}


def table(runs: list[list[dict[str, Any]]]) -> str:
    """The rows of one or more runs as Markdown."""
    by_name = [{row["name"]: row for row in run} for run in runs]
    lines = [
        "| row | figure | unit | ratio | spread | against | floor | holds |",
        "| --- | ---: | --- | ---: | --- | --- | --- | --- |",
    ]
    for name in sorted(by_name[0]):
        rows = [run[name] for run in by_name if name in run]
        first, floor = rows[0], FLOORS.get(name)
        against = f"{first['baseline']} ({first['baseline_value']:.3g})" if first["baseline"] else ""
        low, high = min(row["spread"][0] for row in rows), max(row["spread"][1] for row in rows)
        spread = f"{low:.3g} to {high:.3g}" if low != high else ""
        held = f"{sum(floor.holds(row['ratio']) for row in rows)} of {len(rows)}" if floor else ""
        cells = [
            name,
            f"{first['value']:.3g}",
            first["unit"],
            f"{first['ratio']:.3g}",
            spread,
            against,
            str(floor or ""),
            held,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(
        table(
            [json.loads(Path(path).read_text(encoding="utf-8")) for path in sys.argv[1:] or ["runs/bench/results.json"]]
        )
    )
