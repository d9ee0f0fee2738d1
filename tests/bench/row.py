"""One row of `make bench`: a figure, and where there is a named alternative, the ratio to it in the same run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """`ratio` = value / baseline_value of the same quantity in the same run, or `value` itself without a baseline.

    Where the unit says "times faster", ratio = baseline_value / value: larger is better. spread: (least, greatest)
    ratio where both sides ran several times in turn; ratio is then the median.
    """

    name: str
    value: float
    unit: str
    ratio: float
    command: str
    baseline: str = ""
    baseline_value: float | None = None
    spread: tuple[float, float] | None = None

    @staticmethod
    def repeated(name: str, unit: str, pairs: Sequence[tuple[float, float]], command: str, baseline: str) -> Row:
        """The row of a comparison that ran several times, both sides in turn: pairs of (value, baseline's value).

        Its ratio is the median of the pairs' ratios, with values of the pair that has it.
        """
        ratios = sorted((value / other, value, other) for value, other in pairs)
        ratio, value, other = ratios[(len(ratios) - 1) // 2]
        return Row(name, value, unit, ratio, command, baseline, other, (ratios[0][0], ratios[-1][0]))

    def line(self) -> str:
        """The row as one printed line."""
        if not self.baseline:
            return f"{self.name:42s} {self.value:10.4g} {self.unit}"
        between = "" if self.spread is None else f" ({self.spread[0]:.3g} to {self.spread[1]:.3g})"
        against = f"{self.ratio:8.2f} x{between}  against {self.baseline} ({self.baseline_value:.4g})"
        return f"{self.name:42s} {self.value:10.4g} {self.unit:24s}   {against}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
