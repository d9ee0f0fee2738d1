"""Small clouds for the encoder's tests."""

from __future__ import annotations

import torch

from stage2_distill.encoder import PointBatch
from stage2_distill.encoder.layout import Layout
from stage2_distill.encoder.neighbours import Neighbours, find_neighbours


def cloud(n: int, channels: int, seed: int = 0, extent: int = 24) -> PointBatch:
    """One cloud of about `n` distinct voxels on a few planes inside a cube of `extent` voxels."""
    g = torch.Generator().manual_seed(seed)
    grid = torch.randint(0, extent, (4 * n, 3), generator=g)
    plane = torch.randint(0, 3, (4 * n,), generator=g)
    grid[plane == 0, 2] = 0
    grid[plane == 1, 0] = 1
    grid = torch.unique(grid, dim=0)
    grid = grid[torch.randperm(len(grid), generator=g)[:n]]
    grid = grid - grid.amin(0)
    feat = torch.randn(len(grid), channels, generator=g)
    return PointBatch(grid.float() * 0.02, grid, feat, torch.tensor([len(grid)]))


def permuted(batch: PointBatch, order: torch.Tensor) -> PointBatch:
    """Rows of a one-cloud batch in another order."""
    return PointBatch(batch.coord[order], batch.grid_coord[order], batch.feat[order], batch.offset)


def layout_of(grid: torch.Tensor, batch: torch.Tensor) -> Layout:
    """Of voxels whose clouds are numbered in `batch`, none left out."""
    return Layout.of(grid, torch.bincount(batch).cumsum(0))


def table_of(grid: torch.Tensor, batch: torch.Tensor, kernel: int) -> Neighbours:
    """Neighbour pairs of voxels of these clouds."""
    return find_neighbours(grid, batch, layout_of(grid, batch), kernel)
