"""PointBatch: what the encoder eats. Clouds of voxels (one Gaussian or point each), concatenated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from chorus_common.runtime.errors import SceneError
from stage2_distill.encoder.layout import Layout


@dataclass(frozen=True, eq=False)
class PointBatch:
    """B clouds, N rows in total; rows of one cloud are contiguous.

    Attributes:
        coord      [N, 3] f32, metres.
        grid_coord [N, 3] i64, voxel indices >= 0, one row per voxel.
        feat       [N, C] f32, in the order and ranges that the encoder's config names.
        offset     [B] i64, cumulative row counts: cloud b is rows offset[b-1]:offset[b].
        seeds      [B] i64, what the random draws of training begin from in each cloud (drop path), so that they do not
                   depend on what else is in the batch. None: torch's generator draws.
    """

    coord: Tensor
    grid_coord: Tensor
    feat: Tensor
    offset: Tensor
    seeds: Tensor | None = None
    _layout: Layout | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        n = len(self.coord)
        for name, width in (("coord", 3), ("grid_coord", 3), ("feat", None)):
            value = getattr(self, name)
            if value.ndim != 2 or len(value) != n or (width is not None and value.shape[1] != width):
                raise SceneError(f"point batch: {name} has shape {tuple(value.shape)}, expected ({n}, {width or 'C'})")
        if self.grid_coord.is_floating_point():
            raise SceneError("point batch: grid_coord must be integers (voxel indices)")
        if self.seeds is not None and self.seeds.shape != self.offset.shape:
            raise SceneError(f"point batch: {len(self.offset)} clouds, seeds of shape {tuple(self.seeds.shape)}")
        if self._layout is None:  # else it was checked before it was moved
            self._check_numbers(n)

    def _check_numbers(self, n: int) -> None:
        if self.offset.ndim != 1 or len(self.offset) == 0 or int(self.offset[-1]) != n:
            raise SceneError(
                f"point batch: offset must be cumulative row counts that end at {n}, got {self.offset.tolist()[:8]}"
            )
        sizes = torch.diff(self.offset, prepend=self.offset.new_zeros(1))
        if (sizes <= 0).any():
            raise SceneError(f"point batch: cloud {int((sizes <= 0).nonzero()[0])} of the batch is empty")
        if (self.grid_coord < 0).any():
            raise SceneError("point batch: grid_coord must be >= 0; subtract the minimum of each cloud")

    def __len__(self) -> int:
        return len(self.coord)

    @property
    def layout(self) -> Layout:
        """What the host knows of the clouds; known from before on a device that the batch was moved to."""
        return Layout.of(self.grid_coord, self.offset) if self._layout is None else self._layout

    @property
    def batch(self) -> Tensor:
        """Cloud of each row, [N] i64."""
        sizes = torch.diff(self.offset, prepend=self.offset.new_zeros(1))
        clouds = torch.arange(len(self.offset), device=self.offset.device)
        return torch.repeat_interleave(clouds, sizes, output_size=len(self))

    def to(self, device: torch.device | str) -> PointBatch:
        """The same batch on another device; the host does not wait for it to arrive there."""
        layout = self.layout
        tensors = {k: v for k, v in vars(self).items() if isinstance(v, Tensor)}
        moved = {k: v.to(device, non_blocking=torch.device(device).type != "cpu") for k, v in tensors.items()}
        return replace(self, **moved, _layout=layout)

    def clouds(self) -> list[PointBatch]:
        """One batch per cloud."""
        ends = self.offset.tolist()
        return [
            PointBatch(
                self.coord[a:b],
                self.grid_coord[a:b],
                self.feat[a:b],
                self.offset.new_tensor([b - a]),
                None if self.seeds is None else self.seeds[i : i + 1],
            )
            for i, (a, b) in enumerate(zip([0, *ends[:-1]], ends))
        ]

    @staticmethod
    def concatenate(batches: Sequence[PointBatch]) -> PointBatch:
        """One batch of all clouds of `batches`, in order; seeds only where all have them."""
        seeds = [b.seeds for b in batches if b.seeds is not None]
        starts = [0]
        for b in batches:
            starts.append(starts[-1] + len(b))
        return PointBatch(
            coord=torch.cat([b.coord for b in batches]),
            grid_coord=torch.cat([b.grid_coord for b in batches]),
            feat=torch.cat([b.feat for b in batches]),
            offset=torch.cat([b.offset + start for b, start in zip(batches, starts)]),
            seeds=torch.cat(seeds) if len(seeds) == len(batches) else None,
        )
