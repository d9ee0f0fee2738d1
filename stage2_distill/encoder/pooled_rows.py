"""Which voxels fall together at a coarser level, and how many there will be at every level, before any is made."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stage2_distill.encoder.layout import Layout


def voxel_keys(grid: Tensor, batch: Tensor, extent: tuple[int, int, int]) -> Tensor:
    """Keys [N] i64 that order voxels by (cloud, x, y, z)."""
    return ((batch * extent[0] + grid[:, 0]) * extent[1] + grid[:, 1]) * extent[2] + grid[:, 2]


def voxels_of(keys: Tensor, extent: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Voxels [N, 3] and clouds [N] of keys: the inverse of `voxel_keys`."""
    column = keys // extent[2]
    row = column // extent[1]
    return torch.stack([row % extent[0], column % extent[1], keys % extent[2]], dim=1), row // extent[0]


def distinct_keys(keys: Tensor, count: int | None) -> tuple[Tensor, Tensor]:
    """Ascending distinct keys [M], and the place [N] of each key among them.

    count: M where the host knows it; then nothing waits for the device.
    """
    if count is None:
        return torch.unique(keys, return_inverse=True)
    ascending, order = torch.sort(keys)
    place = _first(ascending).cumsum(0) - 1
    return keys.new_empty(count).scatter_(0, place, ascending), torch.empty_like(place).scatter_(0, order, place)


def count_levels(grid: Tensor, batch: Tensor, layout: Layout, factors: Sequence[Sequence[int]]) -> list[list[int]]:
    """Voxels that each cloud keeps at every coarser level, [levels][B], in one transfer from the device.

    Args:
        grid [N, 3] i64, batch [N] i64: voxels of the finest level.
        factors: [levels][B] by which a cloud's voxels are divided on the way from each level to the next.
    """
    counts, divisor = [], torch.ones(len(layout.ends), dtype=torch.int64)
    for of_clouds in factors:
        divisor = divisor * torch.tensor(of_clouds)
        layout = layout.coarser(of_clouds, [0] * len(of_clouds))
        coarse = grid // divisor.to(grid.device, non_blocking=True)[batch][:, None]
        keys = torch.sort(voxel_keys(coarse, batch, layout.extent)).values
        _, cloud = voxels_of(keys, layout.extent)
        counts.append(grid.new_zeros(len(divisor)).index_add_(0, cloud, _first(keys).long()))
    return torch.stack(counts).tolist() if counts else []


def _first(ascending: Tensor) -> Tensor:
    """Which of ascending numbers [N] differ from the one before."""
    changes = ascending[1:] != ascending[:-1]
    return torch.cat([changes.new_ones(min(1, len(ascending))), changes])
