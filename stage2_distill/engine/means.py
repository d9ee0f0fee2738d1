"""Weighted means of what forward passes measured, for logs and validation; and numbers read from a device at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Number = Tensor | float


def read_numbers(values: Sequence[Number]) -> list[float]:
    """Scalars as Python numbers. The host waits for the device once, however many there are."""
    tensors = [v.detach().double() for v in values if isinstance(v, Tensor)]
    read = iter(torch.stack(tensors).tolist() if tensors else ())
    return [next(read) if isinstance(v, Tensor) else float(v) for v in values]


class Means:
    """Weighted means of named values, in named groups. Numbers stay where they are until they are asked for."""

    def __init__(self) -> None:
        self._added: list[tuple[str, list[str], list[Number]]] = []

    def add(self, group: str, values: Mapping[str, Number], weight: Number, share: float = 1.0) -> None:
        """Count scalar `values` with `share` * `weight`; where that is 0 it leaves no trace."""
        self._added.append((group, list(values), [share, weight, *values.values()]))

    @property
    def numbers(self) -> list[Number]:
        """All that was added, to be read together with other numbers."""
        return [number for _, _, numbers in self._added for number in numbers]

    def means(self, read: Sequence[float] | None = None) -> dict[str, dict[str, float]]:
        """Group -> name -> mean over what was added with that name. read: `numbers`, where they were read already."""
        left = iter(read_numbers(self.numbers) if read is None else read)
        sums: dict[str, dict[str, tuple[float, float]]] = {}  # and of weights
        for group, names, _ in self._added:
            weight = next(left) * next(left)
            values = [next(left) for _ in names]
            if weight == 0:
                continue
            of_group = sums.setdefault(group, {})
            for name, value in zip(names, values):
                before, weights = of_group.get(name, (0.0, 0.0))
                of_group[name] = before + value * weight, weights + weight
        return {group: {name: total / w for name, (total, w) in found.items()} for group, found in sums.items()}

    def nested(self, read: Sequence[float] | None = None) -> dict[str, Any]:
        """The same with "a/b" as a group b in a group a; the group "" stands at the top."""
        out: dict[str, Any] = {}
        for group, values in self.means(read).items():
            place = out
            for part in group.split("/") if group else ():
                place = place.setdefault(part, {})
            place.update(values)
        return out
