"""Voxels of all levels and their neighbour tables on a device, for which the host waits once.

How many voxels a level has, and how many of them touch, is known to the device alone. So levels are made in room for as
many voxels as there can be: as many as the finer level has room for, or as the clouds' boxes have cells at this size.
What is left of the room repeats the last voxel and has no neighbours. All sizes then come to the host together, and the
room is cut to them. The result equals `pool_voxels` and `find_neighbours`, level after level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from stage2_distill.encoder.layout import Layout
from stage2_distill.encoder.neighbours import CountedPairs, Neighbours
from stage2_distill.encoder.pooled_rows import PooledVoxels, divide, voxel_keys, voxels_of


def find_levels(
    grid: Tensor,
    batch: Tensor,
    layout: Layout,
    factors: Sequence[Sequence[int]],
    kernels: Sequence[tuple[int, int]],
    tile_rows: int,
) -> tuple[list[PooledVoxels], list[Neighbours]]:
    """The coarser levels of voxels `grid` [N, 3] i64 of clouds `batch` [N] i64, and neighbour tables.

    Args:
        factors: [levels][B] by which a cloud's voxels are divided on the way from each level to the next.
        kernels: (level, kernel size) of every table; level 0 is the input.
        tile_rows: output rows per tile of a convolution (`Neighbours.tile_splits`).
    """
    roomy: list[PooledVoxels] = []
    for of_clouds in factors:
        fine = (grid, batch, layout) if not roomy else (roomy[-1].grid, roomy[-1].batch, roomy[-1].layout)
        roomy.append(_pool_in_room(*fine, of_clouds))
    counted = []
    for level, kernel in kernels:
        if level:
            voxels = roomy[level - 1]
            counted.append(CountedPairs(voxels.grid, voxels.batch, voxels.layout, kernel, tile_rows, voxels.offset[-1]))
        else:
            counted.append(CountedPairs(grid, batch, layout, kernel, tile_rows))
    numbers = [voxels.offset for voxels in roomy] + [pairs.numbers for pairs in counted]
    sizes = iter(torch.cat(numbers).tolist() if numbers else [])
    levels, rows = [], [len(grid)]
    for voxels in roomy:
        ends = tuple(next(sizes) for _ in voxels.layout.ends)
        levels.append(_cut(voxels, rows[-1], ends))
        rows.append(ends[-1])
    tables = []
    for (level, _), pairs in zip(kernels, counted):
        tables.append(pairs.table(rows[level], [next(sizes) for _ in range(len(pairs.numbers))]))
    return levels, tables


def _pool_in_room(grid: Tensor, batch: Tensor, layout: Layout, factors: Sequence[int]) -> PooledVoxels:
    """`pool_voxels` in room for as many rows as there can be; the last voxel fills what is left."""
    layout = layout.divided(factors)
    ascending, order = torch.sort(voxel_keys(divide(grid, batch, factors), batch, layout.extent))
    changes = ascending[1:] != ascending[:-1]
    place = torch.cat([changes.new_zeros(1), changes]).cumsum(0)  # row of each key among the distinct ones
    cluster = torch.empty_like(place).scatter_(0, order, place)
    keys = ascending[-1:].repeat(layout.ends[-1]).scatter_(0, place, ascending)
    cells = layout.extent[0] * layout.extent[1] * layout.extent[2]
    next_cloud = torch.arange(1, len(factors) + 1, device=keys.device) * cells
    offset = torch.minimum(torch.searchsorted(keys, next_cloud), place[-1] + 1)
    return PooledVoxels(*voxels_of(keys, layout.extent), offset, cluster, layout)


def _cut(voxels: PooledVoxels, fine_rows: int, ends: tuple[int, ...]) -> PooledVoxels:
    """The rows that there are, in memory of their own."""
    grid, batch, cluster = voxels.grid[: ends[-1]], voxels.batch[: ends[-1]], voxels.cluster[:fine_rows]
    layout = replace(voxels.layout, ends=ends)
    return PooledVoxels(grid.clone(), batch.clone(), voxels.offset, cluster.clone(), layout)
