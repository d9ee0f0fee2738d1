"""Pooling between levels against loops over voxels; unpooling; the hierarchy's bookkeeping."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from stage2_distill.encoder import PointBatch, preset_config
from stage2_distill.encoder.hierarchy import build_hierarchy
from stage2_distill.encoder.pooling import Pooling, Unpooling
from stage2_distill.encoder.serialization import curve_encode
from tests.stage2.clouds import cloud


def two_clouds() -> PointBatch:
    return PointBatch.concatenate([cloud(90, 6, seed=1, extent=12), cloud(60, 6, seed=2, extent=20)])


@pytest.mark.parametrize("preset", ["ptv3", "sonata"])
def test_levels_are_the_distinct_halved_voxels(preset: str) -> None:
    batch = two_clouds()
    levels = build_hierarchy(batch, preset_config(preset))
    for fine, coarse in pairwise(levels):
        halved = torch.cat([fine.batch[:, None], fine.grid_coord // 2], 1)
        assert torch.equal(torch.unique(halved, dim=0), torch.cat([coarse.batch[:, None], coarse.grid_coord], 1))
        assert coarse.cluster is not None
        assert torch.equal(torch.cat([coarse.batch[:, None], coarse.grid_coord], 1)[coarse.cluster], halved)
        assert torch.equal(coarse.offset, torch.bincount(coarse.batch).cumsum(0))
        for row in range(0, len(coarse), 7):
            assert torch.allclose(coarse.coord[row], fine.coord[coarse.cluster == row].mean(0), atol=1e-6)


@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_pooling_equals_loop(reduce: str) -> None:
    torch.manual_seed(0)
    pool = Pooling(5, 4, reduce, nn.LayerNorm).double()  # type: ignore[arg-type]
    x, cluster = torch.randn(20, 5, dtype=torch.float64), torch.arange(20) % 6
    y = pool.proj(x)
    rows = [y[cluster == c] for c in range(6)]
    pooled = torch.stack([r.amax(0) if reduce == "max" else r.mean(0) for r in rows])
    assert torch.allclose(pool(x, cluster, 6), nn.functional.gelu(pool.norm(pooled)))


def test_unpooling_adds_the_parent_to_the_skip() -> None:
    torch.manual_seed(0)
    up = Unpooling(5, 3, 4, nn.LayerNorm)
    coarse, skip, cluster = torch.randn(2, 5), torch.randn(6, 3), torch.tensor([0, 1, 1, 0, 1, 0])
    out, branch = up(coarse, skip, cluster)
    assert torch.allclose(branch, up.proj_skip(skip))
    assert torch.allclose(out, branch + up.proj(coarse)[cluster])


def test_shifted_codes_equal_fresh_ones_at_the_pooled_depth() -> None:
    """Serialized pooling may re-encode the halved voxels one bit shallower: the same order as shifting the codes."""
    batch = cloud(200, 6, seed=3)
    config = preset_config("ptv3", depth_rule="max+1")
    levels = build_hierarchy(batch, config)
    depth = (int(batch.grid_coord.max()) + 1).bit_length()
    for s, level in enumerate(levels):
        for order, name in zip(level.orders, config.order):
            code = curve_encode(batch.grid_coord, depth, name) >> 3 * s
            assert torch.equal(curve_encode(level.grid_coord[order], depth - s, name), torch.unique(code))


def test_permutations_are_used_as_upstream_draws_them() -> None:
    batch = cloud(120, 9, seed=4)
    for preset, cumulative in (("ptv3", True), ("sonata", False)):
        config = preset_config(preset, in_channels=9)
        plain = build_hierarchy(batch, config)
        draws = [[1, 0, 3, 2], [3, 1, 0, 2], [0, 1, 2, 3], [2, 3, 0, 1], [1, 2, 3, 0]]
        mixed = build_hierarchy(batch, config, order_permutations=draws)
        order = [0, 1, 2, 3]
        for s, draw in enumerate(draws):
            order = [order[i] for i in draw] if cumulative else draw
            assert all(torch.equal(a, plain[s].orders[i]) for a, i in zip(mixed[s].orders, order))


def test_wrong_permutations_are_refused() -> None:
    with pytest.raises(ValueError, match="5 permutations"):
        build_hierarchy(cloud(20, 6), preset_config("ptv3"), order_permutations=[[0, 1, 2, 3]])


def test_shuffling_is_a_function_of_the_generator() -> None:
    batch, config = cloud(100, 6), preset_config("ptv3")

    def orders(seed: int) -> list[torch.Tensor]:
        levels = build_hierarchy(batch, config, shuffle=True, generator=torch.Generator().manual_seed(seed))
        return [o for level in levels for o in level.orders]

    assert all(torch.equal(a, b) for a, b in zip(orders(5), orders(5)))
    assert not all(torch.equal(a, b) for a, b in zip(orders(5), orders(6)))
