"""The voxels of one level as sorted keys: which rows lie around a run of rows, and which rows of two levels belong
together, without any table of the size of the level.

Rows are in (x, y, z) order, so a run of rows is a slab of the scene (or a piece of one), and what surrounds it within r
voxels lies in at most 2 r + 1 other runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from chorus_common.runtime.errors import SceneError


@dataclass(frozen=True, eq=False)
class VoxelRows:
    """Voxels of one cloud at one level.

    Attributes:
        keys [N] i64, strictly ascending: (x * size[1] + y) * size[2] + z.
        size: extent of the level along x, y, z in voxels.
    """

    keys: Tensor
    size: tuple[int, int, int]

    @staticmethod
    def of(grid: Tensor) -> VoxelRows:
        """Of voxels `grid` [N, 3] i64 >= 0 in ascending (x, y, z) order, each once."""
        x, y, z = (int(v) + 1 for v in grid.amax(0))
        if x * y * z >= 2**62:
            raise SceneError(
                "the scene spans too many voxels for 64-bit keys; use a larger grid size or split the scene"
            )
        keys = (grid[:, 0] * y + grid[:, 1]) * z + grid[:, 2]
        if (keys[1:] <= keys[:-1]).any():
            raise SceneError("voxels must be in ascending (x, y, z) order, each once; encoder.inputs makes them so")
        return VoxelRows(keys, (x, y, z))

    def __len__(self) -> int:
        return len(self.keys)

    def grid(self, rows: Tensor | slice) -> Tensor:
        """Coordinates [n, 3] i64 of `rows`."""
        keys = self.keys[rows]
        column = keys // self.size[2]
        return torch.stack([column // self.size[1], column % self.size[1], keys % self.size[2]], dim=1)

    def blocks(self, rows: int) -> Iterator[tuple[int, int]]:
        """[start, stop) of consecutive runs of `rows` rows."""
        for start in range(0, len(self), rows):
            yield start, min(start + rows, len(self))

    def around(self, start: int, stop: int, reach: int) -> Tensor:
        """Ascending rows, among them start:stop and every voxel that is at most `reach` away from one of these along
        each axis.
        """
        first, last = int(self.keys[start]), int(self.keys[stop - 1])
        layer, margin = self.size[1] * self.size[2], reach * self.size[2] + reach
        spans = [(first + d * layer - margin, last + d * layer + margin) for d in range(-reach, reach + 1)]
        return self._rows_of_spans(spans)

    def coarser(self, stride: int, rows_at_once: int = 1 << 20) -> VoxelRows:
        """The level that pooling with `stride` makes of this one."""
        x, y, z = (-(-s // stride) for s in self.size)
        parts = [torch.unique(_key(self.grid(slice(a, b)) // stride, y, z)) for a, b in self.blocks(rows_at_once)]
        return VoxelRows(torch.unique(torch.cat(parts)), (x, y, z))

    def parents(self, rows: Tensor, coarse: VoxelRows, stride: int) -> Tensor:
        """Row in `coarse` of each of `rows`."""
        return torch.searchsorted(coarse.keys, _key(self.grid(rows) // stride, *coarse.size[1:]))

    def children(self, coarse: VoxelRows, start: int, stop: int, stride: int) -> tuple[Tensor, Tensor]:
        """Ascending rows that fall into rows start:stop of `coarse`, and which of these, [n] each."""
        ends = coarse.grid(torch.tensor([start, stop - 1])) * stride
        (x0, y0, _), (x1, y1, _) = ends.tolist()
        y_size, z_size = self.size[1:]
        if x0 == x1:  # a piece of one coarse layer: the same columns in each of its fine layers
            layers = [(x0 + d) * y_size for d in range(stride)]
            spans = [((a + y0) * z_size, (a + min(y1 + stride, y_size)) * z_size - 1) for a in layers]
        else:
            spans = [(x0 * y_size * z_size, (x1 + stride) * y_size * z_size - 1)]
        rows = self._rows_of_spans(spans)
        parents = self.parents(rows, coarse, stride)
        mine = (parents >= start) & (parents < stop)
        return rows[mine], parents[mine]

    def _rows_of_spans(self, spans: list[tuple[int, int]]) -> Tensor:
        """Rows whose key lies in one of `spans` (both ends included), ascending; spans come in ascending order."""
        low = torch.searchsorted(self.keys, torch.tensor([a for a, _ in spans])).tolist()
        high = torch.searchsorted(self.keys, torch.tensor([b for _, b in spans]), right=True).tolist()
        runs, end = [], 0
        for a, b in zip(low, high):
            a = max(a, end)
            if b > a:
                runs.append(torch.arange(a, b))
                end = b
        return torch.cat(runs)


def _key(grid: Tensor, y_size: int, z_size: int) -> Tensor:
    return (grid[:, 0] * y_size + grid[:, 1]) * z_size + grid[:, 2]
