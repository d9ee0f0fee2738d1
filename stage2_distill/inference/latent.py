"""An encoder's latent of one cloud, read in runs of voxels, so that the wide features of all voxels need not exist."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from chorus_common.runtime.progress import progress
from stage2_distill.encode import Blocks
from stage2_distill.encoder import Encoder, PointBatch
from stage2_distill.encoder.model import LevelFeatures
from stage2_distill.encoder.out_of_core import encode_out_of_core
from stage2_distill.encoder.scratch import Scratch


@dataclass(frozen=True)
class Tokens:
    """The deepest level: feat [L, C] f32, coord [L, 3] f32 m (as the network sees them), grid_coord [L, 3] i64."""

    feat: Tensor
    coord: Tensor
    grid_coord: Tensor


class Latent(Protocol):
    """The latent of M voxels and the deepest level's tokens."""

    @property
    def tokens(self) -> Tokens:
        """Of the deepest level."""
        ...

    def rows(self, start: int, stop: int) -> Tensor:
        """[stop - start, D] f32 on the encoder's device."""
        ...

    def close(self) -> None:
        """Give back what holds it."""
        ...


@torch.no_grad()
def encode_cloud(
    encoder: Encoder, batch: PointBatch, blocks: Blocks | None, name: str, *, shown: bool = False
) -> Latent:
    """The latent of one cloud by an encoder in eval mode; in blocks where `blocks` say so (in its folder `name`).

    shown: report progress.
    """
    device = next(encoder.parameters()).device
    rows = None if blocks is None else blocks.rows_for(len(batch), encoder.config, device)
    if blocks is not None and rows is not None:
        found = encode_out_of_core(encoder, batch, blocks.scratch / name, rows, shown=shown)
        return _Stored(found.values, found.scratch, device, Tokens(*found.deepest))
    batch = batch.to(device)
    hierarchy = encoder.hierarchy(batch)
    total = sum(len(level) * depth for level, depth in zip(hierarchy, encoder.config.enc_depths))
    with progress(total, "voxels through blocks") if shown else nullcontext() as report:
        levels = encoder.forward_levels(batch, levels=hierarchy, report=None if report is None else report.advance)
    deepest = levels[-1]
    tokens = Tokens(deepest.feat.float().cpu(), deepest.level.coord.cpu(), deepest.level.grid_coord.cpu())
    if encoder.config.enc_mode:
        return _Levels(levels, encoder.config.upcast, tokens)
    return _Whole(encoder.decode(levels).float(), tokens)


@dataclass(frozen=True)
class _Whole:
    """Of a decoder: one tensor."""

    values: Tensor
    tokens: Tokens

    def rows(self, start: int, stop: int) -> Tensor:
        return self.values[start:stop]

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class _Levels:
    """Of an encoder alone: its levels, put side by side for the rows that are asked for."""

    levels: list[LevelFeatures]
    upcast: int
    tokens: Tokens

    def rows(self, start: int, stop: int) -> Tensor:
        rows = torch.arange(start, stop, device=self.levels[0].feat.device)
        first, parts = max(0, len(self.levels) - 1 - self.upcast), []
        for s, (feat, level) in enumerate((f.feat, f.level) for f in self.levels):
            if level.cluster is not None:
                rows = level.cluster[rows]
            if s >= first:
                parts.append(feat[rows])
        return torch.cat(parts, dim=1).float()

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class _Stored:
    """In a file of a scratch folder."""

    values: Tensor
    scratch: Scratch
    device: torch.device
    tokens: Tokens

    def rows(self, start: int, stop: int) -> Tensor:
        part = self.values[start:stop].to(self.device, copy=True)
        self.scratch.release()
        return part

    def close(self) -> None:
        self.scratch.close()
