"""Neighbour tables against a dictionary of voxels."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_common.runtime.errors import SceneError
from stage2_distill.encoder.neighbours import CountedPairs, Neighbours
from tests.stage2.clouds import layout_of, table_of


def slow_pairs(grid: torch.Tensor, batch: torch.Tensor, kernel: int) -> dict[int, set[tuple[int, int]]]:
    where: dict[tuple[int, ...], int] = {}
    for i, (b, p) in enumerate(zip(batch.tolist(), grid.tolist())):
        where.setdefault((b, *p), i)
    reach, pairs = kernel // 2, {}
    for t in range(kernel**3):
        dx, dy, dz = t // kernel**2 - reach, t // kernel % kernel - reach, t % kernel - reach
        pairs[t] = {
            (i, where[b, x + dx, y + dy, z + dz])
            for i, (b, (x, y, z)) in enumerate(zip(batch.tolist(), grid.tolist()))
            if (b, x + dx, y + dy, z + dz) in where
        }
    pairs[kernel**3 // 2] = set()
    return pairs


def found(table: Neighbours) -> dict[int, set[tuple[int, int]]]:
    return {t: set(zip(*(x.tolist() for x in table.tap(t)))) for t in range(table.kernel_size**3)}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 6), st.sampled_from([1, 3, 5]))
def test_equals_dictionary(seed: int, n: int, extent: int, kernel: int) -> None:
    g = torch.Generator().manual_seed(seed)
    batch = torch.randint(0, 2, (n,), generator=g).sort().values
    unique = torch.unique(torch.cat([batch[:, None], torch.randint(0, extent, (n, 3), generator=g)], 1), dim=0)
    unique = unique[torch.randperm(len(unique), generator=g)]
    unique = unique[unique[:, 0].argsort(stable=True)]
    grid, batch = unique[:, 1:], torch.unique(unique[:, 0], return_inverse=True)[1]
    table = table_of(grid, batch, kernel)
    assert found(table) == slow_pairs(grid, batch, kernel)
    # counted before it is made, for a device: the same numbers
    counted = CountedPairs(grid, batch, layout_of(grid, batch), kernel, tile_rows=7)
    twin = counted.table(len(grid), counted.numbers.tolist())
    assert torch.equal(twin.out_rows, table.out_rows)
    assert torch.equal(twin.in_rows, table.in_rows)
    assert twin.splits == table.splits
    if len(grid) > 7:
        assert twin._tiles[7] == table.tile_splits(7)


def test_mirrored_taps_hold_swapped_pairs() -> None:
    grid = torch.randint(0, 5, (80, 3), generator=torch.Generator().manual_seed(0)).unique(dim=0)
    pairs = found(table_of(grid, torch.zeros(len(grid), dtype=torch.int64), 3))
    assert all(pairs[26 - t] == {(b, a) for a, b in pairs[t]} for t in range(27))


def test_duplicate_voxels_are_refused_by_name() -> None:
    grid = torch.tensor([[1, 1, 1], [4, 1, 2], [0, 0, 0], [4, 1, 2]])
    with pytest.raises(SceneError, match=r"voxel \[4, 1, 2\] of cloud 0 occurs twice"):
        table_of(grid, torch.zeros(4, dtype=torch.int64), 3)
    batch = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(SceneError, match=r"voxel \[4, 1, 2\] of cloud 0 occurs twice"):
        counted = CountedPairs(grid, batch, layout_of(grid, batch), 3, tile_rows=7)
        counted.table(4, counted.numbers.tolist())


def test_tile_splits_cover_every_pair_once() -> None:
    grid = torch.randint(0, 6, (150, 3), generator=torch.Generator().manual_seed(1)).unique(dim=0)
    table = table_of(grid, torch.zeros(len(grid), dtype=torch.int64), 3)
    for t, splits in enumerate(table.tile_splits(16)):
        assert (splits[0], splits[-1]) == (table.splits[t], table.splits[t + 1])
        for j, (a, b) in enumerate(pairwise(splits)):
            assert set((table.out_rows[a:b] // 16).tolist()) <= {j}


def test_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        table_of(torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), 2)
