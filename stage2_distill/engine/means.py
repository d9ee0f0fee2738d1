"""Weighted means of what forward passes measured, for logs and validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


class Means:
    """Weighted means of named values, in named groups."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, float]] = {}
        self._weight: dict[str, float] = {}

    def add(self, group: str, values: Mapping[str, Tensor | float], weight: float) -> None:
        """Count scalar `values` with `weight`; a weight of 0 leaves no trace."""
        if weight == 0:
            return
        sums = self._sums.setdefault(group, dict.fromkeys(values, 0.0))
        for key, value in values.items():
            sums[key] += (float(value.detach()) if isinstance(value, Tensor) else value) * weight
        self._weight[group] = self._weight.get(group, 0.0) + weight

    def means(self) -> dict[str, dict[str, float]]:
        """Group -> name -> mean."""
        return {group: {k: v / self._weight[group] for k, v in sums.items()} for group, sums in self._sums.items()}

    def nested(self) -> dict[str, Any]:
        """The same with "a/b" as a group b in a group a; the group "" stands at the top."""
        out: dict[str, Any] = {}
        for group, values in self.means().items():
            place = out
            for part in group.split("/") if group else ():
                place = place.setdefault(part, {})
            place.update(values)
        return out
