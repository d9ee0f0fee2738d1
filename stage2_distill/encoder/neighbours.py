"""Which voxels touch: neighbour pairs of every kernel tap, from sorted keys.

A submanifold convolution with kernel k looks at k^3 taps around each occupied voxel. The pairs (output row, input
row) of each tap are found
by binary search in sorted voxel keys, and only for half of the taps: q is the neighbour of p at tap t exactly when p
is the neighbour of q at the mirrored tap k^3 - 1 - t. Within a column of z one search serves all k taps, because
consecutive keys are consecutive rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from chorus_common.runtime.errors import SceneError


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Pairs of all taps except the centre (which pairs every row with itself).

    Attributes:
        kernel_size: k, odd. Tap t = (kx * k + ky) * k + kz reads the voxel at offset (kx, ky, kz) - k // 2.
        n_rows: N.
        out_rows, in_rows: [P] i64, concatenated over taps in ascending order; out_rows ascend within a tap.
        splits: k^3 + 1 positions: pairs of tap t are splits[t]:splits[t + 1]; the centre's range is empty.
    """

    kernel_size: int
    n_rows: int
    out_rows: Tensor
    in_rows: Tensor
    splits: tuple[int, ...]
    _tiles: dict[int, list[list[int]]] = field(default_factory=dict, repr=False)

    @property
    def centre(self) -> int:
        return self.kernel_size**3 // 2

    def tile_splits(self, rows: int) -> list[list[int]]:
        """For each tap the positions at which its pairs pass output rows 0, `rows`, 2 * `rows`, ..., N; [k^3][tiles
        + 1].
        """
        if rows not in self._tiles:
            edges = torch.arange(0, self.n_rows + rows, rows, device=self.out_rows.device).clamp_(max=self.n_rows)
            bounds = torch.tensor(self.splits, device=edges.device)
            # one search for all taps: pairs are sorted by (tap, output row)
            tap = torch.arange(self.kernel_size**3, device=edges.device)
            of_pair = torch.repeat_interleave(tap, torch.diff(bounds), output_size=len(self.out_rows))
            keys = of_pair * (self.n_rows + 1) + self.out_rows
            self._tiles[rows] = torch.searchsorted(keys, tap[:, None] * (self.n_rows + 1) + edges).tolist()
        return self._tiles[rows]

    def tap(self, t: int) -> tuple[Tensor, Tensor]:
        """(output rows, input rows) of tap t."""
        a, b = self.splits[t], self.splits[t + 1]
        return self.out_rows[a:b], self.in_rows[a:b]


def find_neighbours(grid: Tensor, batch: Tensor, kernel_size: int) -> Neighbours:
    """Neighbour pairs of voxels `grid` [N, 3] i64 >= 0 of clouds `batch` [N] i64 for an odd kernel size.

    Voxels of different clouds never touch. A voxel that occurs twice in a cloud is refused with a SceneError: published
    implementations give either row, whichever a hash table happens to keep.
    """
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, got {kernel_size}")
    reach = kernel_size // 2
    # a margin on every side keeps neighbours of different columns and clouds from having equal keys
    size = (grid.amax(0) + 1 + 2 * reach).tolist()
    if size[0] * size[1] * size[2] * (int(batch[-1]) + 1) >= 2**62:
        raise SceneError("the scene spans too many voxels for 64-bit keys; use a larger grid size or split the scene")
    key = ((batch * size[0] + grid[:, 0] + reach) * size[1] + grid[:, 1] + reach) * size[2] + grid[:, 2] + reach
    keys, rows = torch.sort(key, stable=True)
    twice = (keys[1:] == keys[:-1]).nonzero()
    if len(twice):
        row = int(rows[int(twice[0])])
        raise SceneError(
            f"voxel {grid[row].tolist()} of cloud {int(batch[row])} occurs twice in the batch; "
            "give one row per voxel (voxelise merged scenes together)"
        )
    padded = torch.cat([keys, keys.new_full((kernel_size,), torch.iinfo(torch.int64).max)])

    half: list[tuple[Tensor, Tensor]] = []  # taps after the centre, in ascending tap order
    for dx in range(reach + 1):
        for dy in range(-reach if dx else 0, reach + 1):
            first_dz = 1 if dx == dy == 0 else -reach
            target = keys + ((dx * size[1] + dy) * size[2] + first_dz)
            position = torch.searchsorted(keys, target)
            for _ in range(first_dz, reach + 1):
                hit = padded[position] == target
                found = hit.nonzero().squeeze(1)
                half.append((rows[found], rows[position[found]]))
                position = position + hit  # the next key of the column is the next row
                target = target + 1
    empty = rows[:0]
    taps = [(a, b) for b, a in reversed(half)] + [(empty, empty)] + half
    outs, ins, splits = [], [], [0]
    for out_rows, in_rows in taps:
        ascending = torch.argsort(out_rows)
        outs.append(out_rows[ascending])
        ins.append(in_rows[ascending])
        splits.append(splits[-1] + len(out_rows))
    return Neighbours(kernel_size, len(grid), torch.cat(outs), torch.cat(ins), tuple(splits))
