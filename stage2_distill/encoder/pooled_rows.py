"""Which voxels fall together at the next coarser level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from chorus_common.segments import segment_counts
from stage2_distill.encoder.layout import Layout


@dataclass(frozen=True, eq=False)
class PooledVoxels:
    """Distinct voxels of a level, in (cloud, x, y, z) order.

    Attributes:
        grid [M, 3] i64, batch [M] i64 (cloud), offset [B] i64 (cumulative row counts).
        cluster: [N] i64, row of this level for each row of the finer one.
        layout: what the host knows of them.
    """

    grid: Tensor
    batch: Tensor
    offset: Tensor
    cluster: Tensor
    layout: Layout


def pool_voxels(grid: Tensor, batch: Tensor, layout: Layout, factors: Sequence[int]) -> PooledVoxels:
    """Voxels that are left of `grid` [N, 3] i64 of clouds `batch` [N] i64 after division by `factors` [B]."""
    layout = layout.divided(factors)
    keys, cluster = torch.unique(voxel_keys(divide(grid, batch, factors), batch, layout.extent), return_inverse=True)
    coarse, of_row = voxels_of(keys, layout.extent)
    offset = segment_counts(of_row, len(factors)).cumsum(0)
    return PooledVoxels(coarse, of_row, offset, cluster, replace(layout, ends=tuple(offset.tolist())))


def divide(grid: Tensor, batch: Tensor, factors: Sequence[int]) -> Tensor:
    """`grid` [N, 3] i64 divided by the factor of each row's cloud."""
    if len(set(factors)) > 1:
        return grid // torch.tensor(factors).to(grid.device, non_blocking=True)[batch][:, None]
    if factors[0] & (factors[0] - 1):
        return grid // factors[0]
    return grid >> (factors[0].bit_length() - 1)  # a power of two: a CPU shifts faster than it divides


def voxel_keys(grid: Tensor, batch: Tensor, extent: tuple[int, int, int]) -> Tensor:
    """Keys [N] i64 that order voxels by (cloud, x, y, z)."""
    return ((batch * extent[0] + grid[:, 0]) * extent[1] + grid[:, 1]) * extent[2] + grid[:, 2]


def voxels_of(keys: Tensor, extent: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Voxels [N, 3] and clouds [N] of keys: the inverse of `voxel_keys`."""
    column = keys // extent[2]
    row = column // extent[1]
    return torch.stack([row % extent[0], column % extent[1], keys % extent[2]], dim=1), row // extent[0]
