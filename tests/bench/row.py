"""One row of `make bench`: a figure, and where there is a named alternative, the ratio to it in the same run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """`ratio` = value / baseline_value of the same quantity in the same run, or `value` itself without a baseline.

    Where the unit says "times faster", ratio = baseline_value / value: larger is better. `spread`: least and largest
    ratio of the row's rounds (`measure.interleaved`); the ratio twice where there is one round, or nothing to vary.
    """

    name: str
    value: float
    unit: str
    ratio: float
    command: str
    baseline: str = ""
    baseline_value: float | None = None
    spread: tuple[float, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"spread": self.spread or (self.ratio, self.ratio)}
