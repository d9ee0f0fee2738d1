"""Levels and tables made in room for all that may be there, against the same made one after the other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_common.runtime.errors import SceneError
from stage2_distill.encoder.device_levels import find_levels
from stage2_distill.encoder.neighbours import find_neighbours
from stage2_distill.encoder.pooled_rows import pool_voxels
from tests.stage2.clouds import layout_of


def voxels(seed: int, sizes: list[int], extent: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Distinct voxels of clouds in any order, [N, 3] and [N]."""
    g = torch.Generator().manual_seed(seed)
    clouds = [torch.randint(0, extent * (i + 1), (n, 3), generator=g).unique(dim=0) for i, n in enumerate(sizes)]
    clouds = [cloud[torch.randperm(len(cloud), generator=g)] for cloud in clouds]
    return torch.cat(clouds), torch.repeat_interleave(torch.tensor([len(cloud) for cloud in clouds]))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6), st.lists(st.integers(1, 50), min_size=1, max_size=3), st.integers(1, 12), st.integers(3, 40),
    st.lists(st.sampled_from([1, 2, 3, 4]), max_size=3), st.booleans(),
)  # fmt: skip
def test_equals_one_level_after_the_other(
    seed: int, sizes: list[int], extent: int, tile_rows: int, strides: list[int], own: bool
) -> None:
    grid, batch = voxels(seed, sizes, extent)
    layout = layout_of(grid, batch)
    factors = [[stride + own * (b % 2) for b in range(len(sizes))] for stride in strides]
    kernels = [(0, 5), *((level, kernel) for level in range(len(factors) + 1) for kernel in (3, 1))]
    levels, tables = find_levels(grid, batch, layout, factors, kernels, tile_rows)
    slow = [(grid, batch, layout)]
    for of_clouds, found in zip(factors, levels, strict=True):
        expected = pool_voxels(*slow[-1], of_clouds)
        assert found.layout == expected.layout == layout_of(expected.grid, expected.batch)
        for name in ("grid", "batch", "offset", "cluster"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), name
        slow.append((expected.grid, expected.batch, expected.layout))
    for (level, kernel), table in zip(kernels, tables, strict=True):
        twin = find_neighbours(*slow[level], kernel)
        assert table.splits == twin.splits
        assert torch.equal(table.out_rows, twin.out_rows)
        assert torch.equal(table.in_rows, twin.in_rows)
        assert (tile_rows in table._tiles) == (table.n_rows > tile_rows)
        assert table.tile_splits(tile_rows) == twin.tile_splits(tile_rows)


def test_room_is_no_larger_than_the_box() -> None:
    """Sparse voxels cannot fall together more than there are cells: the searches stay short."""
    layout = layout_of(*voxels(0, [50, 40], 10))
    assert layout.divided([8, 8]).ends[-1] <= 8 + 27


def test_duplicate_voxels_are_refused_by_name() -> None:
    grid = torch.tensor([[1, 1, 1], [4, 1, 2], [0, 0, 0], [4, 1, 2]])
    batch = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(SceneError, match=r"voxel \[4, 1, 2\] of cloud 0 occurs twice"):
        find_levels(grid, batch, layout_of(grid, batch), [[2]], [(0, 3)], 64)
