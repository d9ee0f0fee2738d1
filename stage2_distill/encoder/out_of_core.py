"""Inference on scenes whose features do not fit into memory: block by block, with the results of one pass.

A block of rows cannot go through the whole network with a halo around it: a patch of attention reaches as far as its
rows lie apart, and twelve blocks at 16 cm reach across a building. So each *layer* goes over the scene in blocks, and
between layers features live in files (scratch.py). What a layer reads is exact:

- convolutions, norms and MLPs between two attentions are one step; a block of rows is read with all voxels around it
  that these convolutions reach (the halo), and what comes out for the halo is dropped;
- patches are those of the whole scene's curve, whatever the blocks are, so an attention's block is a run of patches;
- pooling and unpooling read the children and the parents of a block's rows.

Hence the result depends on the block size by the rounding of matrix products only. In memory are, per voxel, its input
features, its key per level and, for a moment, the sorting of a curve; beyond that what a block needs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from chorus_common.runtime.errors import SceneError
from chorus_common.runtime.progress import progress
from stage2_distill.encoder.blocks import Block
from stage2_distill.encoder.config import EncoderConfig
from stage2_distill.encoder.hierarchy import Level
from stage2_distill.encoder.layout import Layout, required_depth
from stage2_distill.encoder.model import Encoder, Stage
from stage2_distill.encoder.point_batch import PointBatch
from stage2_distill.encoder.pooling import pooled_mean
from stage2_distill.encoder.scratch import Scratch
from stage2_distill.encoder.serialization import check_depth, curve_encode
from stage2_distill.encoder.sparse_conv import CPU_TILE, DEVICE_TILE
from stage2_distill.encoder.voxel_rows import VoxelRows


@dataclass(frozen=True)
class _Array:
    """Name and shape of an f32 array (curve orders: i64) in the scratch folder."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class _Step:
    """Makes `rows` rows of one array; `run` yields how many it has made after each block. `frees` are of no use after
    it.
    """

    rows: int
    run: Callable[[], Iterator[int]]
    frees: tuple[_Array, ...] = ()


#: for given rows: x, and what the first convolution reads in place of x (None: x itself)
_Source = Callable[[Tensor], tuple[Tensor, Tensor | None]]
#: how many voxels far a layer looks, and the layer: (x, level, what a convolution reads in place of x) -> x
_Layer = tuple[int, Callable[[Tensor, Level, Tensor | None], Tensor]]


class BlockResult(NamedTuple):
    """`encoder(batch)` [N, D] f32 mapped from a file; the scratch that holds it, to be released while it is read; and
    the deepest level's features [L, C] f32, coord [L, 3] f32 and grid_coord [L, 3] i64, in memory.
    """

    values: Tensor
    scratch: Scratch
    deepest: tuple[Tensor, Tensor, Tensor]


@torch.no_grad()
def encode_out_of_core(
    encoder: Encoder, batch: PointBatch, folder: Path, block_rows: int, *, shown: bool = True
) -> BlockResult:
    """`encoder(batch)` in eval mode, in files below `folder` that are removed by the caller afterwards.

    Args:
        batch: one cloud, rows in ascending (x, y, z) order, on the CPU.
        folder: for the features between layers. Work of the same encoder, batch and block size that was begun here
            goes on after its last complete layer.
        block_rows: rows of a level that are worked on at a time.
        shown: report progress.
    """
    if len(batch.offset) != 1:
        raise SceneError("out of core one scene is encoded at a time")
    if encoder.training:
        raise ValueError("out of core there is inference only; call encoder.eval() first")
    scratch = Scratch(folder, _fingerprint(encoder, batch, block_rows))
    try:
        plan = _Plan(encoder, batch, scratch, block_rows)
        result = plan.make()
        _carry_out(plan.steps, scratch, shown)
        deepest = plan.open(plan.deepest).clone()
        return BlockResult(plan.open(result), scratch, (deepest, plan.coords[-1], plan.levels[-1].grid(slice(None))))
    except BaseException:
        scratch.close()
        raise


def _carry_out(steps: list[_Step], scratch: Scratch, shown: bool) -> None:
    """The steps that are not finished yet, in order."""
    done = sum(step.rows for step in steps[: scratch.finished])
    total = sum(step.rows for step in steps)
    with progress(total, "rows of all layers", done=done) if shown else nullcontext() as reporter:
        for number, step in enumerate(steps, start=1):
            if number > scratch.finished:
                for rows in step.run():
                    scratch.release()
                    if reporter is not None:
                        reporter.advance(rows)
                scratch.finish(number)
            for array in step.frees:
                scratch.free(array.name)


def _fingerprint(encoder: Encoder, batch: PointBatch, block_rows: int) -> str:
    digest = hashlib.blake2b(f"{encoder.config.model_dump_json()} {block_rows}".encode(), digest_size=16)
    for tensor in (*encoder.state_dict().values(), batch.grid_coord, batch.feat, batch.coord):
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _levels(grid: Tensor, config: EncoderConfig) -> tuple[list[VoxelRows], list[int], list[int]]:
    """Levels, finest first; stride from each to the next; curve depth of each. As `build_hierarchy` does for one
    cloud.
    """
    levels, strides = [VoxelRows.of(grid)], []
    depths = [_depth(levels[0], config.depth_rule)]
    for stride in config.stride:
        if config.pooling == "serialized":
            bits = stride.bit_length() - 1
            stride = stride if depths[-1] >= bits else 1  # m1: no pooling once the codes are used up
            depths.append(depths[-1] - (bits if stride > 1 else 0))
        strides.append(stride)
        levels.append(levels[-1].coarser(stride))
        if config.pooling == "grid":
            depths.append(_depth(levels[-1], config.depth_rule))
    return levels, strides, depths


def _depth(level: VoxelRows, rule: str) -> int:
    return required_depth(max(level.size) - 1, rule)


class _Plan:
    """The steps that make an encoder's result for a batch, in order."""

    def __init__(self, encoder: Encoder, batch: PointBatch, scratch: Scratch, block_rows: int) -> None:
        self.encoder, self.batch, self.scratch, self.block_rows = encoder, batch, scratch, block_rows
        self.config = encoder.config
        self.device = next(encoder.parameters()).device
        self.tile = CPU_TILE if self.device.type == "cpu" else DEVICE_TILE
        self.levels, self.strides, self.depths = _levels(batch.grid_coord, self.config)
        self.coords = self._coords()
        self.orders: dict[tuple[int, int], _Array] = {}
        self.steps: list[_Step] = []

    def _coords(self) -> list[Tensor]:
        """Mean coordinates [N, 3] f32 of every level's voxels, as `hierarchy` pools them."""
        coords = [self.batch.coord]
        for fine, coarse, stride in zip(self.levels, self.levels[1:], self.strides):
            cluster = fine.parents(torch.arange(len(fine)), coarse, stride)
            coords.append(pooled_mean(coords[-1], cluster, len(coarse)))
        return coords

    def open(self, array: _Array, *, new: bool = False) -> Tensor:
        return self.scratch.array(array.name, array.shape, array.dtype, new=new)

    def make(self) -> _Array:
        """Plan everything; returns the array of the result."""
        features: list[_Array] = []
        for s in range(len(self.levels)):
            stage = self.encoder.stage("enc", s)
            if s == 0:
                x = self._stage("enc", s, stage, self._input, [self._stem()], ())
            else:
                pooled = self._pooled(features[-1], s, stage)
                x = self._stage("enc", s, stage, self._rows_of(pooled), [], (pooled,))
            features.append(x)
        self.deepest = self._kept(features[-1])
        if self.config.enc_mode:
            return self._upcast(features)
        x = features[-1]
        for s in reversed(range(len(self.levels) - 1)):
            stage = self.encoder.stage("dec", s)
            x = self._stage("dec", s, stage, self._unpooled(x, features[s], s, stage), [], (x, features[s]))
        return x

    # what a step reads for given rows

    def _take(self, array: _Array, rows: Tensor) -> Tensor:
        return self.open(array).index_select(0, rows).to(self.device)

    def _input(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.batch.feat[rows].to(self.device), None

    def _rows_of(self, array: _Array) -> _Source:
        return lambda rows: (self._take(array, rows), None)

    def _unpooled(self, coarse: _Array, skip: _Array, s: int, stage: Stage) -> _Source:
        def read(rows: Tensor) -> tuple[Tensor, Tensor | None]:
            parents = self.levels[s].parents(rows, self.levels[s + 1], self.strides[s])
            needed, inverse = torch.unique(parents, return_inverse=True)
            x, branch = stage["up"](self._take(coarse, needed), self._take(skip, rows), inverse.to(self.device))
            return x, branch if self.config.legacy_decoder_cpe else None

        return read

    def _stem(self) -> _Layer:
        stem = self.encoder.embedding
        return stem.reach, lambda x, level, _: stem(x, level)

    # steps

    def _stage(
        self,
        side: Literal["enc", "dec"],
        s: int,
        stage: Stage,
        source: _Source,
        layers: list[_Layer],
        frees: tuple[_Array, ...],
    ) -> _Array:
        """Steps of one stage: `layers`, then its blocks; the array that holds its result. `frees`: what only `source`
        reads.
        """
        width = getattr(self.config, f"{side}_channels")[s]
        for i in range(getattr(self.config, f"{side}_depths")[s]):
            block = stage[f"block{i}"]
            assert isinstance(block, Block)
            layers.append((block.reach, block.before_attention))
            if block.attends:
                order = self._order(s, i % len(self.config.order))
                x = self._layers(f"{side}{s}-{i}", s, width, source, layers, frees)
                y = self._attention(f"{side}{s}-{i}-attended", s, block, order, x)
                source, layers, frees = self._rows_of(y), [(0, self._in_tiles(block.add_mlp))], (y,)
        return self._layers(f"{side}{s}", s, width, source, layers, frees)

    def _in_tiles(self, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Level, Tensor | None], Tensor]:
        return lambda x, _level, _source: torch.cat([function(part) for part in x.split(self.tile)])

    def _layers(
        self, name: str, s: int, width: int, source: _Source, layers: list[_Layer], frees: tuple[_Array, ...]
    ) -> _Array:
        """Local layers, one after the other, over blocks of rows with the halo that all of them reach."""
        rows = self.levels[s]
        out = _Array(name, (len(rows), width))
        reach = sum(reach for reach, _ in layers)

        def run() -> Iterator[int]:
            result = self.open(out, new=True)
            for start, stop in rows.blocks(self.block_rows):
                window = rows.around(start, stop, reach) if reach else torch.arange(start, stop)
                x, conv_input = source(window)
                level = _window(rows.grid(window), self.device)
                for _, layer in layers:
                    x, conv_input = layer(x, level, conv_input), None
                core = int(torch.searchsorted(window, start))
                result[start:stop] = x[core : core + stop - start].float().cpu()
                yield stop - start

        self.steps.append(_Step(len(rows), run, frees))
        return out

    def _attention(self, name: str, s: int, block: Block, order: _Array, x: _Array) -> _Array:
        """x + attention within the patches of a curve; the partition is that of `attention.cut_patches`."""
        n, out = len(self.levels[s]), _Array(name, x.shape)
        length = min(n, block.patch_size)
        at_once = max(1, min(self.block_rows, 2 * self.tile) // length) * length

        def attend(rows: Tensor) -> Tensor:
            position = self.coords[s][rows] if block.rotates_by_coord else self.levels[s].grid(rows)
            return block.attend_rows(self._take(x, rows), position.to(self.device), length).float().cpu()

        def run() -> Iterator[int]:
            along, result = self.open(order), self.open(out, new=True)
            tail = n % length
            for start in range(0, n - tail, at_once):
                rows = along[start : min(start + at_once, n - tail)].clone()
                result[rows] = attend(rows)
                yield len(rows)
            if tail:  # the last patch is filled from the patch before it
                rows = torch.cat([along[n - tail :], along[n - length : n - tail]])
                result[rows[:tail]] = attend(rows)[:tail]
                yield tail

        self.steps.append(_Step(n, run, (x,)))
        return out

    def _order(self, s: int, curve: int) -> _Array:
        """Rows of level s along a curve; made once."""
        if (s, curve) in self.orders:
            return self.orders[s, curve]
        level, depth, name = self.levels[s], self.depths[s], self.config.order[curve]
        check_depth([depth])
        out = self.orders[s, curve] = _Array(f"order{s}-{curve}", (len(level),), torch.int64)

        def run() -> Iterator[int]:
            spans = level.blocks(self.block_rows)
            code = torch.cat([curve_encode(level.grid(slice(a, b)), depth, name) for a, b in spans])
            self.open(out, new=True)[:] = torch.argsort(code)
            yield len(level)

        self.steps.append(_Step(len(level), run))
        return out

    def _pooled(self, fine: _Array, s: int, stage: Stage) -> _Array:
        level, coarse, stride = self.levels[s - 1], self.levels[s], self.strides[s - 1]
        out = _Array(f"enc{s}-pooled", (len(coarse), self.config.enc_channels[s]))
        needed = not self.config.enc_mode or s - 1 >= len(self.levels) - 1 - self.config.upcast

        def run() -> Iterator[int]:
            result = self.open(out, new=True)
            for start, stop in coarse.blocks(max(1, self.block_rows // stride**2)):  # surfaces: stride^2 children
                rows, parents = level.children(coarse, start, stop, stride)
                x = stage["down"](self._take(fine, rows), (parents - start).to(self.device), stop - start)
                result[start:stop] = x.float().cpu()
                yield stop - start

        self.steps.append(_Step(len(coarse), run, () if needed else (fine,)))
        return out

    def _kept(self, array: _Array) -> _Array:
        """A copy that no later step frees."""
        out = _Array("deepest", array.shape)

        def run() -> Iterator[int]:
            self.open(out, new=True)[:] = self.open(array)
            yield array.shape[0]

        self.steps.append(_Step(array.shape[0], run))
        return out

    def _upcast(self, features: list[_Array]) -> _Array:
        """Features of the deepest `upcast` + 1 levels side by side, for every voxel of the finest."""
        finest, first = self.levels[0], max(0, len(features) - 1 - self.config.upcast)
        out = _Array("upcast", (len(finest), self.config.out_channels))

        def run() -> Iterator[int]:
            result = self.open(out, new=True)
            for start, stop in finest.blocks(self.block_rows):
                rows, parts = torch.arange(start, stop), []
                for s, array in enumerate(features):
                    if s:
                        rows = self.levels[s - 1].parents(rows, self.levels[s], self.strides[s - 1])
                    if s >= first:
                        parts.append(self._take(array, rows))
                result[start:stop] = torch.cat(parts, dim=1).cpu()
                yield stop - start

        self.steps.append(_Step(len(finest), run, tuple(features[first:])))
        return out


def _window(grid: Tensor, device: torch.device) -> Level:
    """Voxels `grid` [m, 3] as a level of their own, for their neighbour tables."""
    grid = grid - grid.amin(0)
    offset = grid.new_tensor([len(grid)])
    layout = Layout.of(grid, offset)
    grid, offset = (x.to(device, non_blocking=True) for x in (grid, offset))
    return Level(coord=grid.float(), grid_coord=grid, batch=grid.new_zeros(len(grid)), offset=offset, layout=layout)
