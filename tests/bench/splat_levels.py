"""A cloud whose levels have the shares of a real splat: 746,973 Gaussians at 2 cm, doubled four times.

A splat is sparser than a room of points: its finest voxels hardly share a cell of 4 cm, so that coarse levels hold far
more rows, and more of an encoder's work, than those of `bench_encoder.room`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from stage2_distill.encoder import PointBatch

#: Voxels per level, finest first.
SPLAT_LEVELS = (719_175, 611_000, 347_000, 114_000, 33_000)


def splat_voxels(scale: float, seed: int = 0) -> NDArray[np.int64]:
    """Voxels [N, 3] with `scale` x `SPLAT_LEVELS` cells per level: three walls of coarse cells, each cell divided into
    children drawn at random.
    """
    rng = np.random.default_rng(seed)
    sizes = [round(n * scale) for n in SPLAT_LEVELS]
    side = int(np.sqrt(sizes[-1] / 3)) + 2
    a, b = (x.reshape(-1) for x in np.meshgrid(np.arange(side), np.arange(side), indexing="ij"))
    walls = [np.stack(axes, axis=1) for axes in ((a, b, 0 * a), (a, 0 * a, b), (0 * a, a, b))]
    grid = np.unique(np.concatenate(walls), axis=0)[: sizes[-1]]
    corners = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), axis=-1).reshape(8, 3)
    for n in reversed(sizes[:-1]):
        taken = np.zeros((len(grid), 8), dtype=bool)
        taken[np.arange(len(grid)), rng.integers(0, 8, len(grid))] = True  # every cell has a child
        taken.reshape(-1)[rng.choice(np.flatnonzero(~taken), n - len(grid), replace=False)] = True
        parent, corner = np.nonzero(taken)
        grid = grid[parent] * 2 + corners[corner]
    return grid[np.lexsort(grid.T[::-1])]


def splat_cloud(scale: float, channels: int) -> PointBatch:
    """`splat_voxels` as a batch of one cloud with random features."""
    grid = torch.from_numpy(splat_voxels(scale))
    feat = torch.randn(len(grid), channels, generator=torch.Generator().manual_seed(0))
    return PointBatch(grid.float() * 0.02, grid, feat, torch.tensor([len(grid)]))
