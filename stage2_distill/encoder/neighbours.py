"""Which voxels touch: neighbour pairs of every kernel tap, from sorted keys.

A submanifold convolution with kernel k looks at k^3 taps around each occupied voxel. The pairs (output row, input
row) of each tap are found
by binary search in sorted voxel keys, and only for half of the taps: q is the neighbour of p at tap t exactly when p
is the neighbour of q at the mirrored tap k^3 - 1 - t. Within a column of z one search serves all k taps, because
consecutive keys are consecutive rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chorus_common.runtime.errors import SceneError
from stage2_distill.encoder.layout import Layout
from stage2_distill.encoder.pooled_rows import voxel_keys


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
        if rows >= self.n_rows:
            return [[a, b] for a, b in zip(self.splits, self.splits[1:])]
        if rows not in self._tiles:
            edges = torch.arange(0, self.n_rows + rows, rows, device=self.out_rows.device).clamp_(max=self.n_rows)
            bounds = torch.tensor(self.splits).to(edges.device, non_blocking=True)
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


def find_neighbours(grid: Tensor, batch: Tensor, layout: Layout, kernel_size: int) -> Neighbours:
    """Neighbour pairs of voxels `grid` [N, 3] i64 >= 0 of clouds `batch` [N] i64 for an odd kernel size.

    layout: of these voxels. Voxels of different clouds never touch. A voxel that occurs twice in a cloud is refused
    with a SceneError: published implementations give either row, whichever a hash table happens to keep.
    """
    voxels = _SortedVoxels(grid, batch, layout, kernel_size)
    voxels.refuse_twins(bool((voxels.keys[1:] == voxels.keys[:-1]).any()))
    rows = voxels.rows
    half: list[tuple[Tensor, Tensor]] = []  # taps after the centre, in ascending tap order
    for hit, position in voxels.half_taps():
        found = hit.nonzero().squeeze(1)
        half.append((rows[found], rows[position[found]]))
    empty = rows[:0]
    taps = [(a, b) for b, a in reversed(half)] + [(empty, empty)] + half
    outs, ins, splits = [], [], [0]
    for out_rows, in_rows in taps:
        ascending = torch.argsort(out_rows)
        outs.append(out_rows[ascending])
        ins.append(in_rows[ascending])
        splits.append(splits[-1] + len(out_rows))
    return Neighbours(kernel_size, len(grid), torch.cat(outs), torch.cat(ins), tuple(splits))


def find_all_neighbours(wanted: Sequence[tuple[Tensor, Tensor, Layout, int]]) -> list[Neighbours]:
    """`find_neighbours` of several arguments, for a device: the host asks once how many pairs there are, in all tables.

    It takes more memory than one table after the other, taps of a table at once: 5 bytes per voxel and half a tap.
    """
    if not wanted:
        return []
    all_voxels = [_SortedVoxels(*arguments) for arguments in wanted]
    hits, positions, numbers = [], [], []
    for voxels in all_voxels:
        found = [(hit[None], position[None].int()) for hit, position in voxels.half_taps()]
        nothing = voxels.rows.new_empty(0, len(voxels.rows))  # a kernel of 1 has no other taps
        hits.append(torch.cat([nothing.bool(), *(hit for hit, _ in found)]))
        positions.append(torch.cat([nothing.int(), *(position for _, position in found)]))  # [taps, N]
        twins = (voxels.keys[1:] == voxels.keys[:-1]).sum()
        numbers.append(torch.cat([twins[None], hits[-1].sum(1)]))
    counts = iter(torch.cat(numbers).tolist())
    tables = []
    for voxels, hit, position in zip(all_voxels, hits, positions):
        voxels.refuse_twins(next(counts) > 0)
        per_tap = [next(counts) for _ in range(len(hit))]
        tables.append(_table(voxels, hit, position, per_tap))
    return tables


def _table(voxels: _SortedVoxels, hit: Tensor, position: Tensor, counts: list[int]) -> Neighbours:
    """The table of half its taps' hits [taps, N], whose numbers are known."""
    k, n = voxels.kernel_size, len(voxels.rows)
    tap, row = torch.nonzero_static(hit, size=sum(counts)).unbind(1)
    there, here = voxels.rows[position[tap, row].long()], voxels.rows[row]
    centre = k**3 // 2
    taps = torch.cat([centre - 1 - tap, centre + 1 + tap])
    outs, ins = torch.cat([there, here]), torch.cat([here, there])
    order = torch.argsort(taps * n + outs)  # no two pairs are alike
    splits = [0]
    for count in (*reversed(counts), 0, *counts):
        splits.append(splits[-1] + count)
    return Neighbours(k, n, outs[order], ins[order], tuple(splits))


class _SortedVoxels:
    """Voxels by ascending key: keys [N] i64, rows [N] i64 of each."""

    def __init__(self, grid: Tensor, batch: Tensor, layout: Layout, kernel_size: int) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        self.grid, self.batch, self.kernel_size = grid, batch, kernel_size
        self.reach = kernel_size // 2
        # a margin on every side keeps neighbours of different columns and clouds from having equal keys
        x, y, z = (side + 2 * self.reach for side in layout.extent)
        self.size = x, y, z
        if x * y * z * len(layout.ends) >= 2**62:
            raise SceneError(
                "the scene spans too many voxels for 64-bit keys; use a larger grid size or split the scene"
            )
        self.keys, self.rows = torch.sort(voxel_keys(grid + self.reach, batch, self.size), stable=True)

    def refuse_twins(self, found: bool) -> None:
        """SceneError that names the first voxel which occurs twice, where one was found."""
        if not found:
            return
        row = int(self.rows[int((self.keys[1:] == self.keys[:-1]).nonzero()[0])])
        raise SceneError(
            f"voxel {self.grid[row].tolist()} of cloud {int(self.batch[row])} occurs twice in the batch; "
            "give one row per voxel (voxelise merged scenes together)"
        )

    def half_taps(self) -> Iterator[tuple[Tensor, Tensor]]:
        """For each tap after the centre which of the keys have a neighbour there [N] bool, and its position [N]."""
        padded = torch.cat([self.keys, self.keys.new_full((self.kernel_size,), torch.iinfo(torch.int64).max)])
        reach = self.reach
        for dx in range(reach + 1):
            for dy in range(-reach if dx else 0, reach + 1):
                first_dz = 1 if dx == dy == 0 else -reach
                target = self.keys + ((dx * self.size[1] + dy) * self.size[2] + first_dz)
                position = torch.searchsorted(self.keys, target)
                for _ in range(first_dz, reach + 1):
                    hit = padded[position] == target
                    yield hit, position
                    position = position + hit  # the next key of the column is the next row
                    target = target + 1
