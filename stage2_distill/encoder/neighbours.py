"""Which voxels touch: neighbour pairs of every kernel tap, from sorted keys.

A submanifold convolution with kernel k looks at k^3 taps around each occupied voxel. The pairs (output row, input
row) of each tap are found
by binary search in sorted voxel keys, and only for half of the taps: q is the neighbour of p at tap t exactly when p
is the neighbour of q at the mirrored tap k^3 - 1 - t. Within a column of z one search serves all k taps, because
consecutive keys are consecutive rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from chorus_common.runtime.errors import SceneError
from stage2_distill.encoder.layout import Layout
from stage2_distill.encoder.pooled_rows import voxel_keys

#: a key that no voxel has, greater than all, which may be added to another
_NO_VOXEL = 1 << 62


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
    voxels.refuse_twins(bool(voxels.twins().any()))
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


class CountedPairs:
    """`find_neighbours` in two halves, for a device: `numbers` say how many pairs there are, and once the host has read
    them, `table` makes the table.

    Args:
        grid [C, 3], batch [C], layout, kernel_size: see `find_neighbours`; room for C voxels.
        tile_rows: output rows per tile for which `Neighbours.tile_splits` is to be known.
        count: [] i64, the number of voxels, which come first and in (cloud, x, y, z) order; None: C, in any order.

    Attributes:
        numbers: i64, on the device.
    """

    numbers: Tensor

    def __init__(
        self, grid: Tensor, batch: Tensor, layout: Layout, kernel_size: int, tile_rows: int, count: Tensor | None = None
    ) -> None:
        self._voxels = _SortedVoxels(grid, batch, layout, kernel_size, count)
        self._tile_rows = tile_rows
        # where columns begin is kept, and which taps are there is found out again: a fifth of the memory
        self._columns = [self._voxels.search(first).int() for first, _ in self._voxels.columns()]
        pairs = [self._per_tile(hit, place) for hit, place in self._voxels.half_taps(self._columns)]
        self.numbers = torch.cat([self._voxels.twins().sum()[None], *(tiles.flatten() for tiles in pairs)])

    def _per_tile(self, hit: Tensor, place: Tensor) -> Tensor:
        """Pairs of a tap and of its mirrored tap by tile of output rows, [2, tiles]."""
        rows = self._voxels.rows
        tiles = max(1, -(-len(rows) // self._tile_rows))
        if tiles == 1:
            return hit.sum().expand(2, 1)
        there = rows[place.clamp(max=len(rows) - 1)]
        nowhere = tiles * self._tile_rows
        marks = hit.new_zeros(2, nowhere + 1)  # in row order; a voxel has at most one neighbour at a tap
        marks.scatter_(1, torch.where(hit, torch.stack([rows, there]), nowhere), True)
        return marks[:, :-1].unflatten(1, (tiles, self._tile_rows)).sum(2)

    def table(self, n_rows: int, numbers: list[int]) -> Neighbours:
        """The table of `n_rows` voxels; `numbers` are those of the device."""
        voxels, k = self._voxels.cut(n_rows), self._voxels.kernel_size
        voxels.refuse_twins(numbers[0] > 0)
        half, tiles = k**3 // 2, max(1, -(-len(self._voxels.rows) // self._tile_rows))
        pairs = [numbers[i : i + tiles] for i in range(1, len(numbers), tiles)]  # tap, mirrored tap, next tap, ...
        per_tile = [*pairs[1::2][::-1], [0] * tiles, *pairs[0::2]]
        splits = list(accumulate(map(sum, per_tile), initial=0))
        # taps of this table at once: 5 bytes per voxel and tap of one half
        found = list(voxels.half_taps([column[:n_rows] for column in self._columns]))
        nothing = voxels.rows.new_empty(0, n_rows)  # a kernel of 1 has no other taps
        hit = torch.cat([nothing.bool(), *(hit[None] for hit, _ in found)])
        place = torch.cat([nothing.int(), *(place[None] for _, place in found)])  # [taps, N]
        tap, row = torch.nonzero_static(hit, size=splits[half]).unbind(1)
        there, here = voxels.rows[place[tap, row].long()], voxels.rows[row]
        taps = torch.cat([half - 1 - tap, half + 1 + tap])
        outs, ins = torch.cat([there, here]), torch.cat([here, there])
        order = torch.argsort(taps * n_rows + outs)  # no two pairs are alike
        table = Neighbours(k, n_rows, outs[order], ins[order], tuple(splits))
        if n_rows > self._tile_rows:
            used = -(-n_rows // self._tile_rows)
            table._tiles[self._tile_rows] = [
                list(accumulate(counts[:used], initial=start)) for counts, start in zip(per_tile, splits)
            ]
        return table


class _SortedVoxels:
    """Voxels by ascending key: keys [N] i64, rows [N] i64 of each; see `CountedPairs` for `count`."""

    def __init__(
        self, grid: Tensor, batch: Tensor, layout: Layout, kernel_size: int, count: Tensor | None = None
    ) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        self.grid, self.batch, self.kernel_size = grid, batch, kernel_size
        self.reach = kernel_size // 2
        # a margin on every side keeps neighbours of different columns and clouds from having equal keys
        x, y, z = (side + 2 * self.reach for side in layout.extent)
        self.size = x, y, z
        if x * y * z * len(layout.ends) >= _NO_VOXEL:
            raise SceneError(
                "the scene spans too many voxels for 64-bit keys; use a larger grid size or split the scene"
            )
        keys = voxel_keys(grid + self.reach, batch, self.size)
        if count is None:
            self.keys, self.rows = torch.sort(keys, stable=True)
        else:
            self.rows = torch.arange(len(keys), device=keys.device)
            self.keys = torch.where(self.rows < count, keys, _NO_VOXEL)

    def cut(self, n_rows: int) -> _SortedVoxels:
        """The first `n_rows` of them."""
        cut = copy(self)
        cut.keys, cut.rows = self.keys[:n_rows], self.rows[:n_rows]
        return cut

    def twins(self) -> Tensor:
        """Which keys [N - 1] occur once more, bool."""
        return (self.keys[1:] == self.keys[:-1]) & (self.keys[1:] != _NO_VOXEL)

    def refuse_twins(self, found: bool) -> None:
        """SceneError that names the first voxel which occurs twice, where one was found."""
        if not found:
            return
        row = int(self.rows[int(self.twins().nonzero()[0])])
        raise SceneError(
            f"voxel {self.grid[row].tolist()} of cloud {int(self.batch[row])} occurs twice in the batch; "
            "give one row per voxel (voxelise merged scenes together)"
        )

    def columns(self) -> Iterator[tuple[int, int]]:
        """Columns of taps after the centre, in ascending order: what the first tap adds to a key, and how many taps."""
        for dx in range(self.reach + 1):
            for dy in range(-self.reach if dx else 0, self.reach + 1):
                first_dz = 1 if dx == dy == 0 else -self.reach
                taps = self.reach + 1 - first_dz
                if taps > 0:
                    yield (dx * self.size[1] + dy) * self.size[2] + first_dz, taps

    def search(self, first: int) -> Tensor:
        """Where the keys plus `first` are, or would be, among the keys; [N] i64."""
        return torch.searchsorted(self.keys, self.keys + first)

    def half_taps(self, searched: Sequence[Tensor] | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """For each tap after the centre which of the keys have a neighbour there [N] bool, and its position [N].

        searched: what `search` has found for the columns.
        """
        padded = torch.cat([self.keys, self.keys.new_full((self.kernel_size,), torch.iinfo(torch.int64).max)])
        for i, (first, taps) in enumerate(self.columns()):
            target = self.keys + first
            position = self.search(first) if searched is None else searched[i]
            for _ in range(taps):
                hit = padded[position] == target
                yield hit, position
                position = position + hit  # the next key of the column is the next row
                target = target + 1
