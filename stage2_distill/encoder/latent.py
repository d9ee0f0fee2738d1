"""An encoder's latent of one cloud, read in blocks of voxels, so that the wide features of all voxels need not exist.

An encoder without a decoder carries its levels up and puts them side by side. What the voxels of a coarse cell share is
kept once, in the level that it belongs to: a block holds the rows of every level that its voxels need, and blocks
follow the tree of levels, so that nearly every coarse row is in one block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from stage2_distill.encoder.model import LevelFeatures
from stage2_distill.encoder.scratch import Scratch


@dataclass(frozen=True)
class Tokens:
    """The deepest level: feat [L, C] f32, coord [L, 3] f32 m (as the network sees them), grid_coord [L, 3] i64."""

    feat: Tensor
    coord: Tensor
    grid_coord: Tensor

    def cpu(self) -> Tokens:
        """The same in the host's memory. Only who wants them waits for the copy."""
        return Tokens(self.feat.cpu(), self.coord.cpu(), self.grid_coord.cpu())


@dataclass(frozen=True)
class LatentBlock:
    """The latent of n voxels, level by level.

    Attributes:
        voxels: [n] i64, which they are.
        feats: [n_l, C_l] f32 per level, finest first. own: [n] i64, row of feats[0] for each voxel, or None: its own
            place. parents: [n_l] i64 for each level but the last, row of the next one.
    """

    voxels: Tensor
    feats: tuple[Tensor, ...]
    parents: tuple[Tensor, ...] = ()
    own: Tensor | None = None

    def __len__(self) -> int:
        return len(self.voxels)

    def dense(self) -> Tensor:
        """[n, D]: the levels side by side, finest first."""
        x = self.feats[-1]
        for feat, parent in zip(self.feats[-2::-1], self.parents[::-1]):
            x = torch.cat([feat, x.index_select(0, parent)], dim=1)
        return self.of_voxels(x)

    def of_voxels(self, values: Tensor) -> Tensor:
        """[n, C] from values [n_0, C] of the finest level."""
        return values if self.own is None else values.index_select(0, self.own)


class Latent(Protocol):
    """The latent of M voxels."""

    def __len__(self) -> int: ...

    @property
    def tokens(self) -> Tokens | None:
        """Of the deepest level, where the latent knows them."""
        ...

    def blocks(self, size: int, voxels: Tensor | None = None) -> Iterator[LatentBlock]:
        """Blocks of `size` voxels, every voxel (or each of `voxels` [n], without repetition) in one of them."""
        ...

    def rows(self, voxels: Tensor) -> Tensor:
        """[n, D] f32 of these voxels [n] i64, which may repeat."""
        ...

    def close(self) -> None:
        """Give back what holds it."""
        ...


@dataclass(frozen=True)
class DenseLatent:
    """One array, in memory or in a file of a scratch folder.

    device: where blocks are put, None = where the array is.
    """

    values: Tensor
    tokens: Tokens | None = None
    scratch: Scratch | None = None
    device: torch.device | None = None

    def __len__(self) -> int:
        return len(self.values)

    def blocks(self, size: int, voxels: Tensor | None = None) -> Iterator[LatentBlock]:
        every = torch.arange(len(self.values)) if voxels is None else voxels
        for part in every.split(size):
            yield LatentBlock(part, (self.rows(part),))

    def rows(self, voxels: Tensor) -> Tensor:
        part = self.values[voxels.to(self.values.device, non_blocking=True)].float()
        if self.device is not None:
            part = part.to(self.device, non_blocking=True)
        if self.scratch is not None:
            self.scratch.release()
        return part

    def close(self) -> None:
        if self.scratch is not None:
            self.scratch.close()


@dataclass(frozen=True, eq=False)
class LevelLatent:
    """Of an encoder without a decoder. `upcast`: how many levels are carried up (`EncoderConfig`)."""

    levels: Sequence[LevelFeatures]
    upcast: int
    tokens: Tokens | None = None
    _along: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.levels[0].level)

    def blocks(self, size: int, voxels: Tensor | None = None) -> Iterator[LatentBlock]:
        if not self._along:
            self._along.append(self._along_tree())
        along = self._along[0]
        if voxels is not None:
            wanted = torch.zeros(len(self), dtype=torch.bool, device=self._device)
            wanted[voxels.to(self._device)] = True
            along = along[wanted[along]]
        for rows in along.split(size):
            yield self._block(rows)

    def rows(self, voxels: Tensor) -> Tensor:
        rows, parts = voxels.to(self._device, non_blocking=True), []
        for s, features in enumerate(self.levels):
            if s:
                rows = _cluster(features)[rows]
            if s >= self._first:
                parts.append(features.feat[rows])
        return torch.cat(parts, dim=1).float()

    def close(self) -> None:
        pass

    @property
    def _first(self) -> int:
        """The finest level that is part of the latent."""
        return max(0, len(self.levels) - 1 - self.upcast)

    @property
    def _device(self) -> torch.device:
        return self.levels[0].feat.device

    def _along_tree(self) -> Tensor:
        """[M]: the voxels in an order in which those of one cell, of any level, lie together."""
        along = torch.arange(len(self.levels[-1].level), device=self._device)
        for features in self.levels[:0:-1]:
            rank = torch.empty_like(along)
            rank[along] = torch.arange(len(along), device=self._device)
            along = torch.argsort(rank[_cluster(features)], stable=True)
        return along

    def _block(self, voxels: Tensor) -> LatentBlock:
        first = self._first
        rows, own = voxels, None
        feats, parents = [], []
        for s, features in enumerate(self.levels):
            if s:
                rows, place = torch.unique(_cluster(features)[rows], return_inverse=True)
                if s > first:
                    parents.append(place)
                else:
                    own = place if own is None else place[own]
            if s >= first:
                feats.append(features.feat.index_select(0, rows).float())
        return LatentBlock(voxels, tuple(feats), tuple(parents), own)


def _cluster(features: LevelFeatures) -> Tensor:
    cluster = features.level.cluster
    assert cluster is not None, "all levels but the finest have one"
    return cluster
