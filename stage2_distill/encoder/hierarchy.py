"""The levels of a batch: everything the network needs to know about where voxels are, computed once from integers
before any feature flows.

Level 0 holds the input voxels, level l + 1 the voxels that pooling makes of level l. Each level knows its curve
orders (cut into patches), its neighbour tables and which coarse voxel each fine voxel falls into; encoder and
decoder share them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stage2_distill.encoder.attention import Patches, cut_patches
from stage2_distill.encoder.config import EncoderConfig
from stage2_distill.encoder.counter_rng import uniform_rows
from stage2_distill.encoder.device_levels import find_levels
from stage2_distill.encoder.layout import Layout
from stage2_distill.encoder.neighbours import Neighbours, find_neighbours
from stage2_distill.encoder.point_batch import PointBatch
from stage2_distill.encoder.pooled_rows import PooledVoxels, pool_voxels
from stage2_distill.encoder.pooling import pooled_mean
from stage2_distill.encoder.rope import RotaryFrequencies, rope_angles
from stage2_distill.encoder.serialization import serialize
from stage2_distill.encoder.sparse_conv import tile_rows

#: What random numbers of clouds are drawn for beside drop paths (blocks' numbers): see `uniform_rows`.
_ROPE_PURPOSE = 1 << 20


@dataclass(eq=False)
class Level:
    """Voxels of one resolution. Tables are made on first use and kept.

    Attributes:
        coord [N, 3] f32 m (mean of the members), grid_coord [N, 3] i64, batch [N] i64, offset [B] i64 cumulative.
        layout: what the host knows of them.
        cluster: [N_fine] i64, row of this level for each row of the finer one; None at level 0.
        orders: permutation [N] i64 per curve, in the order in which blocks use them; empty where no block attends.
        smallest_cloud_rule: cut patches of min(patch size, smallest cloud) (upstream without flash).
        seeds: [B] i64, the clouds' own random numbers; None: torch's generator of the device.
        rope_factors: [B, 3] f32 by which a rotary encoding of coordinates multiplies them, in training; None: 1.
    """

    coord: Tensor
    grid_coord: Tensor
    batch: Tensor
    offset: Tensor
    layout: Layout
    cluster: Tensor | None = None
    orders: list[Tensor] = field(default_factory=list)
    smallest_cloud_rule: bool = False
    seeds: Tensor | None = None
    rope_factors: Tensor | None = None
    _neighbours: dict[int, Neighbours] = field(default_factory=dict)
    _patches: dict[tuple[int, int], Patches] = field(default_factory=dict)
    _angles: dict[tuple[str | float, ...], Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.grid_coord)

    def neighbours(self, kernel_size: int) -> Neighbours:
        """Neighbour pairs for an odd kernel."""
        if kernel_size not in self._neighbours:
            self._neighbours[kernel_size] = find_neighbours(self.grid_coord, self.batch, self.layout, kernel_size)
        return self._neighbours[kernel_size]

    def patches(self, block: int, patch_size: int) -> Patches:
        """Patches for block number `block` of a stage."""
        curve = block % len(self.orders)
        if self.smallest_cloud_rule:
            patch_size = min(patch_size, *self.layout.sizes)
        if (curve, patch_size) not in self._patches:
            self._patches[curve, patch_size] = cut_patches(self.orders[curve], self.layout.ends, patch_size)
        return self._patches[curve, patch_size]

    def angles(self, head_dim: int, base: float) -> Tensor:
        """Rotary angles for PointROPE."""
        if (head_dim, base) not in self._angles:
            self._angles[head_dim, base] = rope_angles(self.grid_coord, head_dim, base)
        return self._angles[head_dim, base]

    def coord_angles(self, rope: RotaryFrequencies) -> Tensor:
        """Rotary angles of the coordinates; blocks whose frequencies are the same share them."""
        key: tuple[str | float, ...] = ("coord", *rope.frequencies())
        if key not in self._angles:
            scaled = self.coord if self.rope_factors is None else self.coord * self.rope_factors[self.batch]
            self._angles[key] = rope(scaled)
        return self._angles[key]

    def uniform(self, purpose: int) -> Tensor:
        """Random numbers [N] f32 in [0, 1), of each cloud's own where it has a seed (`uniform_rows`)."""
        if self.seeds is None:
            return torch.rand(len(self), device=self.batch.device)
        return uniform_rows(self.seeds, self.batch, self.offset, purpose)


def build_hierarchy(
    batch: PointBatch,
    config: EncoderConfig,
    *,
    order_permutations: Sequence[Sequence[int]] | Tensor | None = None,
    shuffle: bool = False,
    jitter: bool = False,
    generator: torch.Generator | None = None,
) -> list[Level]:
    """Levels of a batch, finest first.

    Args:
        order_permutations: upstream's draws of randperm(len(order)), one per serialized level, in the order in which
            upstream draws them. With it the serialization follows upstream to the letter, batch-wide curve depth
            included. None: identity.
        shuffle: draw such permutations from `generator` (a CPU generator; None = torch's global one).
        jitter: draw the factors of `EncoderConfig.rope_jitter` and `rope_rescale`, from the clouds' seeds where there
            are some.
    """
    stages = len(config.enc_channels)
    attends = [config.enc_attn[s] and config.enc_depths[s] > 0 for s in range(stages)]
    if not config.enc_mode:
        for s in range(stages - 1):
            attends[s] = attends[s] or (config.dec_attn[s] and config.dec_depths[s] > 0)
    draws = _permutations(config, sum(attends), order_permutations, shuffle, generator)
    whole_batch = config.depth_scope == "batch" or order_permutations is not None

    level = Level(
        batch.coord,
        batch.grid_coord,
        batch.batch,
        batch.offset,
        batch.layout,
        smallest_cloud_rule=not config.enable_flash,
        seeds=batch.seeds,
        rope_factors=_rope_factors(batch, config, generator) if jitter else None,
    )
    depths = level.layout.depths(config.depth_rule, whole_batch)
    factors = _factors(level.layout, config, depths)
    ahead: list[PooledVoxels] | None = None
    if level.batch.device.type != "cpu":  # all sizes are asked for at once; a CPU finds out as it goes
        wanted = _kernels(config)
        voxels = level.grid_coord, level.batch, level.layout
        ahead, tables = find_levels(*voxels, factors, wanted, tile_rows(level.batch.device))
    order = list(range(len(config.order)))
    levels: list[Level] = []
    for s in range(stages):
        if s:
            fine, divisor = levels[-1], factors[s - 1]
            pooled = pool_voxels(fine.grid_coord, fine.batch, fine.layout, divisor) if ahead is None else ahead[s - 1]
            level = _pool(fine, pooled)
            if config.pooling == "grid":
                depths = level.layout.depths(config.depth_rule, whole_batch)
            else:  # m1: codes lose the bits that are pooled away
                depths = [d - (f.bit_length() - 1) for d, f in zip(depths, factors[s - 1])]
        if attends[s]:
            draw = draws.pop(0)
            # m1 permutes the codes it inherits, m2 permutes codes it has made afresh
            order = [order[i] for i in draw] if config.pooling == "serialized" else list(draw)
            level.orders = serialize(
                level.grid_coord, level.batch, level.layout.ends, depths, [config.order[i] for i in order]
            )
        levels.append(level)
    if ahead is not None:
        for (s, kernel), table in zip(wanted, tables):
            levels[s]._neighbours[kernel] = table
    return levels


def _kernels(config: EncoderConfig) -> list[tuple[int, int]]:
    """(level, kernel size) of the neighbour tables that the network will ask for."""
    wanted = [(0, config.stem_kernel)] if config.stem == "conv" else []
    for s in range(len(config.enc_channels)):
        encodes = config.enc_conv[s] and config.enc_depths[s] > 0
        last = s == len(config.enc_channels) - 1
        decodes = not config.enc_mode and not last and config.dec_conv[s] and config.dec_depths[s] > 0
        if (encodes or decodes) and (s, 3) not in wanted:
            wanted.append((s, 3))
    return wanted


def _rope_factors(batch: PointBatch, config: EncoderConfig, generator: torch.Generator | None) -> Tensor | None:
    """[B, 3]: log-uniform factors of each cloud's axes; None where the config asks for none."""
    jitter, rescale = config.rope_jitter or 1.0, config.rope_rescale or 1.0
    if config.rope_position != "coord" or jitter == rescale == 1.0:
        return None
    clouds = torch.arange(len(batch.offset), device=batch.offset.device)
    if batch.seeds is None:
        draws = torch.rand(len(clouds), 4, generator=generator).to(batch.coord.device)
    else:
        numbers = (uniform_rows(batch.seeds, clouds, clouds + 1, _ROPE_PURPOSE + k) for k in range(4))
        draws = torch.stack(list(numbers), dim=1)
    powers = 2 * draws - 1  # [B, 4] in [-1, 1): three axes, and all of them
    return (powers[:, :3] * math.log(jitter) + powers[:, 3:] * math.log(rescale)).exp()


def _permutations(
    config: EncoderConfig,
    count: int,
    given: Sequence[Sequence[int]] | Tensor | None,
    shuffle: bool,
    generator: torch.Generator | None,
) -> list[list[int]]:
    n = len(config.order)
    if given is not None:
        rows = [[int(i) for i in row] for row in given]
        if len(rows) != count or any(sorted(row) != list(range(n)) for row in rows):
            raise ValueError(
                f"order_permutations must be {count} permutations of range({n}), one per serialized level; got {rows}"
            )
        return rows
    if shuffle:
        return [torch.randperm(n, generator=generator).tolist() for _ in range(count)]
    return [list(range(n))] * count


def _factors(layout: Layout, config: EncoderConfig, depths: list[int]) -> list[list[int]]:
    """By what each cloud's voxels are divided from each level to the next, [levels - 1][B]."""
    factors = []
    for stride in config.stride[: len(config.enc_channels) - 1]:
        bits = stride.bit_length() - 1
        if config.pooling == "serialized":  # m1: no pooling once the codes are used up
            factors.append([1 << bits if depth >= bits else 1 for depth in depths])
            depths = [depth - bits if depth >= bits else depth for depth in depths]
        else:
            factors.append([stride] * len(depths))
    return factors


def _pool(fine: Level, voxels: PooledVoxels) -> Level:
    """The next coarser level."""
    return Level(
        coord=pooled_mean(fine.coord, voxels.cluster, len(voxels.grid)),
        grid_coord=voxels.grid,
        batch=voxels.batch,
        offset=voxels.offset,
        layout=voxels.layout,
        cluster=voxels.cluster,
        smallest_cloud_rule=fine.smallest_cloud_rule,
        seeds=fine.seeds,
        rope_factors=fine.rope_factors,
    )
