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
from stage2_distill.encoder.neighbours import Neighbours, find_neighbours
from stage2_distill.encoder.point_batch import PointBatch
from stage2_distill.encoder.pooling import pooled_mean
from stage2_distill.encoder.rope import RotaryFrequencies, rope_angles
from stage2_distill.encoder.serialization import required_depth, serialize

#: What random numbers of clouds are drawn for beside drop paths (blocks' numbers): see `uniform_rows`.
_ROPE_PURPOSE = 1 << 20


@dataclass(eq=False)
class Level:
    """Voxels of one resolution. Tables are made on first use and kept.

    Attributes:
        coord [N, 3] f32 m (mean of the members), grid_coord [N, 3] i64, batch [N] i64, offset [B] i64 cumulative.
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
            self._neighbours[kernel_size] = find_neighbours(self.grid_coord, self.batch, kernel_size)
        return self._neighbours[kernel_size]

    def patches(self, block: int, patch_size: int) -> Patches:
        """Patches for block number `block` of a stage."""
        curve = block % len(self.orders)
        if self.smallest_cloud_rule:
            patch_size = min(patch_size, int(torch.diff(self.offset, prepend=self.offset.new_zeros(1)).min()))
        if (curve, patch_size) not in self._patches:
            self._patches[curve, patch_size] = cut_patches(self.orders[curve], self.offset, patch_size)
        return self._patches[curve, patch_size]

    def angles(self, head_dim: int, base: float) -> Tensor:
        """Rotary angles for PointROPE."""
        if (head_dim, base) not in self._angles:
            self._angles[head_dim, base] = rope_angles(self.grid_coord, head_dim, base)
        return self._angles[head_dim, base]

    def coord_angles(self, rope: RotaryFrequencies) -> Tensor:
        """Rotary angles of the coordinates; blocks whose frequencies are the same share them."""
        key = ("coord", *rope.inv_freq.tolist())
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
        smallest_cloud_rule=not config.enable_flash,
        seeds=batch.seeds,
        rope_factors=_rope_factors(batch, config, generator) if jitter else None,
    )
    depth = _depths(level, config.depth_rule, whole_batch)
    order = list(range(len(config.order)))
    levels: list[Level] = []
    for s in range(stages):
        if s:
            level, depth = _pool(levels[-1], config, config.stride[s - 1], depth, whole_batch)
        if attends[s]:
            draw = draws.pop(0)
            # m1 permutes the codes it inherits, m2 permutes codes it has made afresh
            order = [order[i] for i in draw] if config.pooling == "serialized" else list(draw)
            level.orders = serialize(level.grid_coord, level.batch, depth, [config.order[i] for i in order])
        levels.append(level)
    return levels


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


def _depths(level: Level, rule: str, whole_batch: bool) -> Tensor:
    """Curve depth of every cloud, [B] i64 on the CPU."""
    if whole_batch:
        return torch.full((len(level.offset),), required_depth(level.grid_coord, rule))
    ends = level.offset.tolist()
    return torch.tensor([required_depth(level.grid_coord[a:b], rule) for a, b in zip([0, *ends[:-1]], ends)])


def _pool(fine: Level, config: EncoderConfig, stride: int, depth: Tensor, whole_batch: bool) -> tuple[Level, Tensor]:
    """The next coarser level and its curve depths; rows are in (cloud, x, y, z) order."""
    if config.pooling == "serialized":
        bits = stride.bit_length() - 1
        bits_of_cloud = torch.where(depth >= bits, bits, 0)  # m1: no pooling once the codes are used up
        grid = fine.grid_coord >> bits_of_cloud.to(fine.batch.device)[fine.batch][:, None]
        depth = depth - bits_of_cloud
    else:
        grid = fine.grid_coord // stride
    size = (grid.amax(0) + 1).tolist()
    key = ((fine.batch * size[0] + grid[:, 0]) * size[1] + grid[:, 1]) * size[2] + grid[:, 2]
    unique, cluster = torch.unique(key, return_inverse=True)
    z = unique % size[2]
    y = unique // size[2] % size[1]
    x = unique // (size[2] * size[1]) % size[0]
    batch = unique // (size[2] * size[1] * size[0])
    coarse = Level(
        coord=pooled_mean(fine.coord, cluster, len(unique)),
        grid_coord=torch.stack([x, y, z], dim=1),
        batch=batch,
        offset=torch.bincount(batch, minlength=len(fine.offset)).cumsum(0),
        cluster=cluster,
        smallest_cloud_rule=fine.smallest_cloud_rule,
        seeds=fine.seeds,
        rope_factors=fine.rope_factors,
    )
    if config.pooling == "grid":
        depth = _depths(coarse, config.depth_rule, whole_batch)
    return coarse, depth
