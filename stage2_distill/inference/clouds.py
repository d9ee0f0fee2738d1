"""The clouds that a scene is fed to an encoder as, and which Gaussians take their features from each.

`own`: one cloud, one Gaussian per voxel (the most opaque), whose feature all Gaussians of the voxel get. Nothing is
drawn at random, and every Gaussian is answered. With several fragments the further ones show the voxels' next members.

`release`: the inference of the released Chorus (GaussianWorld/Chorus, its inference configs). Of every cell of half a
voxel one Gaussian stands for the others; what is left is shown in as many fragments as the fullest voxel has members,
fragment i holding member i mod count of every voxel, its coordinates centred anew in x and y. A Gaussian's feature is
the mean over the fragments that hold it. Where the release draws at random, we choose: the most opaque Gaussian of a
half-voxel cell (the first among equals), members of a voxel in row order, curves in their given order, and clouds are
never cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from chorus_common.bounds import bounds
from chorus_common.runtime.errors import ConfigError
from chorus_common.scene import I64, GaussianScene
from stage2_distill.encoder.config import EncoderConfig
from stage2_distill.encoder.inputs import attributes, centred, check_channels, one_cloud, scene_inputs, voxelise
from stage2_distill.encoder.normals import scene_normals
from stage2_distill.encoder.point_batch import PointBatch
from stage2_distill.encoder.shape_context import shape_context
from stage2_distill.tta import rotated_scenes


@dataclass(frozen=True)
class Cloud:
    """One pass of the encoder.

    Attributes:
        batch: M voxels of one cloud.
        rows: [n] i64, Gaussians that take features from it. voxel: [n] i64, the voxel of each.
    """

    batch: PointBatch
    rows: I64
    voxel: I64


@dataclass(frozen=True)
class Clouds:
    """All passes of a scene, made one after the other, and how many features each Gaussian gets from them, [N]."""

    number: int
    times: NDArray[np.int32]
    make: Iterator[Cloud]


def own_clouds(
    scene: GaussianScene,
    config: EncoderConfig,
    *,
    fragments: int | None = 1,
    tta_rotations: int = 1,
    absent: tuple[str, ...] = (),
) -> Clouds:
    """The clouds of our own protocol; fragments None = as many as the fullest voxel has members.

    A Gaussian that is in none of the first `fragments` ones takes the mean over all of them of its voxel's features.
    """
    n = len(scene)
    if fragments == 1:
        whole = np.arange(n)

        def single() -> Iterator[Cloud]:
            for rotated in rotated_scenes(scene, tta_rotations):
                batch, inverse = scene_inputs(rotated, config, absent=absent)
                yield Cloud(batch, whole, inverse)

        return Clouds(tta_rotations, np.full(n, tta_rotations, np.int32), single())
    if tta_rotations != 1:
        raise ConfigError("fragments and test-time rotations are two ways to the same end; give one of them")
    coord = centred(scene.means)
    cells = _Cells.of(coord, config.inputs.grid_size, order_by=-scene.opacities)
    number = cells.fullest if fragments is None else min(fragments, cells.fullest)
    unseen = cells.rank >= number
    times = np.where(unseen, number, _times(cells, number)).astype(np.int32)
    values = _values(scene, coord, config, absent)

    def several() -> Iterator[Cloud]:
        for i in range(number):
            members = cells.members(i)
            rows = np.flatnonzero(unseen | cells.holds(i))
            yield Cloud(_batch(config, values, coord, members, cells.grid, absent), rows, cells.voxel[rows])

    return Clouds(number, times, several())


def release_clouds(scene: GaussianScene, config: EncoderConfig, *, absent: tuple[str, ...] = ()) -> Clouds:
    """The clouds of the released Chorus's inference."""
    size = config.inputs.grid_size
    scene = replace(scene, colors=_bytes(scene.colors))
    low, high = bounds(scene.means.astype(np.float64))
    coord = scene.means - np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
    fine = _Cells.of(coord, size / 2, order_by=-scene.opacities)
    standing = np.sort(fine.members(0))  # rows that stand for their cells, in row order
    stand_in = fine.members(0)[fine.voxel]  # [N] row that stands for each
    cells = _Cells.of(coord[standing], size)
    place = np.searchsorted(standing, stand_in)  # [N] place among `standing`
    values = _values(scene, coord, config, absent)

    def make() -> Iterator[Cloud]:
        for i in range(cells.fullest):
            members = standing[cells.members(i)]
            own = coord[members]
            low, high = bounds(own)
            shift = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, 0.0])
            batch = _batch(config, values, coord - shift, members, cells.grid, absent)
            rows = np.flatnonzero(cells.holds(i)[place])
            yield Cloud(batch, rows, cells.voxel[place[rows]])

    return Clouds(cells.fullest, _times(cells, cells.fullest)[place], make())


@dataclass(frozen=True)
class _Cells:
    """Rows by cells of a grid.

    Attributes:
        grid [M, 3]: the cells. voxel [N], rank [N]: a row's cell, and its place among the cell's rows.
        starts, counts [M], order [N]: rows of cell m are order[starts[m] : starts[m] + counts[m]], by rank.
    """

    grid: I64
    voxel: I64
    rank: I64
    starts: I64
    counts: I64
    order: I64

    @staticmethod
    def of(coord: NDArray[np.float64], size: float, order_by: NDArray[np.floating] | None = None) -> _Cells:
        """Cells of `size`; ranks follow `order_by` (equals: row order), or row order."""
        grid, voxel, starts, order = voxelise(coord, size)
        if order_by is not None:
            order = np.lexsort((order_by, voxel))
        counts = np.diff(np.append(starts, len(order)))
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order)) - np.repeat(starts, counts)
        return _Cells(grid, voxel, rank, starts, counts, order)

    @property
    def fullest(self) -> int:
        return int(self.counts.max())

    def members(self, i: int) -> I64:
        """[M]: member i mod count of every cell."""
        return self.order[self.starts + i % self.counts]

    def holds(self, i: int) -> NDArray[np.bool_]:
        """[N]: whether fragment i holds the row."""
        return i % self.counts[self.voxel] == self.rank


def _times(cells: _Cells, number: int) -> NDArray[np.int32]:
    """[N]: how many of the first `number` fragments hold each row."""
    counts = cells.counts[cells.voxel]
    return ((number - cells.rank + counts - 1) // counts).astype(np.int32)


def _values(
    scene: GaussianScene, coord: NDArray[np.float64], config: EncoderConfig, absent: tuple[str, ...]
) -> dict[str, NDArray[np.floating]]:
    """Attributes [N, width] of the scene's rows, and their normals where a feature needs them."""
    check_channels(config)
    values: dict[str, NDArray[np.floating]] = dict(attributes(scene, coord, config.inputs, absent))
    if "shape" in config.inputs.features:
        values["normal of shape"] = scene_normals(scene, config.inputs.normals)
    return values


def _batch(
    config: EncoderConfig,
    values: dict[str, NDArray[np.floating]],
    coord: NDArray[np.float64],
    members: I64,
    grid: I64,
    absent: tuple[str, ...],
) -> PointBatch:
    """The cloud of single rows `members` [M] at voxels `grid` [M, 3]."""
    inputs = config.inputs
    own = coord[members]
    picked = {name: value[members] for name, value in values.items()}
    if "coord" in picked and "coord" not in absent:
        picked["coord"] = (own * inputs.coord_scale).astype(np.float32)
    if "shape" in inputs.features:
        picked["shape"] = shape_context(own, picked["normal of shape"].astype(np.float32))
    return one_cloud(own, grid, picked, inputs, absent)


def _bytes(colors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colours cut to whole 255ths, as the release stores them; such ones stay as they are."""
    return (np.floor(colors.astype(np.float64) * 255 + 1e-3) / 255).astype(np.float32)
