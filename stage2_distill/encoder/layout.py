"""What the host knows of a batch's voxels: row counts and largest indices of its clouds.

Sizes of tables, curve depths and cuts into patches follow from these few numbers. Where voxels are on a GPU, the host
would otherwise have to wait for it whenever it asks for one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Numbers of B clouds.

    Attributes:
        ends: cumulative row counts. largest: largest index along x, y, z of each cloud's voxels.
    """

    ends: tuple[int, ...]
    largest: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(grid: Tensor, offset: Tensor) -> Layout:
        """Of voxels `grid` [N, 3] i64 of clouds that end at `offset` [B] i64; on a device one transfer."""
        if grid.device.type == "cpu":
            ends = offset.tolist()
            return Layout(tuple(ends), tuple(tuple(grid[a:b].amax(0).tolist()) for a, b in zip([0, *ends[:-1]], ends)))
        cloud = torch.searchsorted(offset, torch.arange(len(grid), device=grid.device), right=True)
        largest = grid.new_zeros(len(offset), 3).scatter_reduce_(0, cloud[:, None].expand(-1, 3), grid, "amax")
        rows = torch.cat([offset[:, None], largest], dim=1).tolist()
        return Layout(tuple(row[0] for row in rows), tuple(tuple(row[1:]) for row in rows))

    @property
    def sizes(self) -> list[int]:
        """Rows of every cloud."""
        return [b - a for a, b in zip((0, *self.ends[:-1]), self.ends)]

    @property
    def extent(self) -> tuple[int, int, int]:
        """Voxels along x, y, z that hold every cloud."""
        x, y, z = (max(axis) + 1 for axis in zip(*self.largest))
        return x, y, z

    def depths(self, rule: str, whole_batch: bool) -> list[int]:
        """Curve depth of every cloud: its own (see `serialization.required_depth`), or that of all together."""
        own = [required_depth(max(largest), rule) for largest in self.largest]
        return [max(own)] * len(own) if whole_batch else own

    def divided(self, factors: Sequence[int]) -> Layout:
        """Of the distinct voxels after division by `factors` [B]. Until they are counted, each cloud's rows are the
        most that there can be: as many as before, or as its box holds.
        """
        largest = tuple(tuple(v // f for v in axes) for f, axes in zip(factors, self.largest))
        most = (min(rows, math.prod(v + 1 for v in axes)) for rows, axes in zip(self.sizes, largest))
        return Layout(tuple(accumulate(most)), largest)


def required_depth(largest: int, rule: str) -> int:
    """Bits per axis of a cloud whose largest index is `largest`.

    rule "max": bit_length(max) (SceneSplat, the original PTv3 release); "max+1": bit_length(max + 1) (Pointcept,
    Sonata). They differ when max + 1 is a power of two, and then the Hilbert curve visits the cells with permuted
    axes.
    """
    return (largest + (rule == "max+1")).bit_length()
