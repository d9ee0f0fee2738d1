"""From a GaussianScene to the encoder's input: centre, voxelise, pick one member per voxel, assemble features.

Choices (upstream's, made deterministic; SceneSplat `datasets/transform.py`, Sonata `transform.py`):

- Centre: the middle of the bounding box in x and y, the minimum in z (CenterShift).
- Voxel: floor(coord / grid_size) in float64, minus the minimum per axis. Upstream's dtype, and with it the voxel of
  points on a border, depends on the numpy version; float64 is what current versions give for augmented coordinates.
- Member: at inference the most opaque Gaussian of a voxel (the first row among equals) or the mean of all
  (`InputConfig.member`); in training a random one, a pure function of the seed. Upstream draws at random in both cases.
- Rows of the batch are in (x, y, z) order of their voxels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from chorus_common.bounds import bounds
from chorus_common.runtime.errors import ConfigError
from chorus_common.scene import F32, I64, GaussianScene, canonical_quats
from stage2_distill.encoder.config import ATTRIBUTE_WIDTHS, EncoderConfig, InputConfig
from stage2_distill.encoder.normals import scene_normals
from stage2_distill.encoder.point_batch import PointBatch
from stage2_distill.encoder.shape_context import shape_context

#: attributes that a point cloud turned into Gaussians does not really have
POINT_CLOUD_LACKS = ("opacity", "quat", "scale")


@dataclass(frozen=True, eq=False)
class VoxelInputs:
    """A scene as one cloud.

    Attributes:
        points: M voxels. voxel [N]: of every Gaussian, -1 where it was cut away.
        members [M]: the Gaussian that each voxel's input is; None where it is the mean of all its Gaussians.
    """

    points: PointBatch
    voxel: I64
    members: I64 | None


def scene_inputs(
    scene: GaussianScene,
    config: EncoderConfig,
    *,
    training: bool = False,
    seed: int = 0,
    absent: Collection[str] = (),
) -> tuple[PointBatch, I64]:
    """One cloud for the encoder, and the voxel of every Gaussian; see `voxel_inputs`.

    Returns:
        (batch of M voxels, inverse [N] i64: features[inverse] are per Gaussian).
    """
    found = voxel_inputs(scene, config, training=training, seed=seed, absent=absent)
    return found.points, found.voxel


def voxel_inputs(
    scene: GaussianScene,
    config: EncoderConfig,
    *,
    training: bool = False,
    seed: int = 0,
    absent: Collection[str] = (),
    max_voxels: int = 0,
) -> VoxelInputs:
    """One cloud for the encoder, the voxel of every Gaussian, and the Gaussian of every voxel.

    Args:
        config: the encoder's config; `config.inputs` says what to feed.
        training: a random member per voxel (a pure function of `seed`) in place of the fixed choice.
        absent: attributes to treat as missing (e.g. `POINT_CLOUD_LACKS` for a scanned point cloud); they become
            zeros, and with `InputConfig.indicator` the encoder is told so.
        max_voxels: in training, the nearest voxels to a drawn one, centred anew in x and y (upstream's SphereCrop and
            second CenterShift, which stand behind its grid); the others are cut away. 0 = all, and no second centring.
    """
    inputs = config.inputs
    check_channels(config)
    coord: NDArray[np.floating] = centred(scene.means)
    grid, inverse, starts, order = voxelise(coord, inputs.grid_size)
    values = attributes(scene, coord, inputs, absent)
    members: I64 | None = None
    if training:
        counts = np.diff(np.append(starts, len(order)))
        rng = np.random.default_rng(seed)
        draw = rng.random(len(starts))
        members = order[starts + np.minimum((draw * counts).astype(np.int64), counts - 1)]
        if max_voxels > 0:
            kept = nearest_rows(coord[members], max_voxels, rng)
            place = np.full(len(members), -1, dtype=np.int64)
            place[kept] = np.arange(len(kept))
            grid, inverse, members = grid[kept], place[inverse], members[kept]
            coord = coord - middle_xy(coord[members])
            if "coord" in values:
                values["coord"] = (coord * inputs.coord_scale).astype(np.float32)
    elif inputs.member == "opaque":
        # stable sort by (voxel, most opaque first): ties go to the first row
        members = np.lexsort((-scene.opacities, inverse))[starts]
    if members is not None:
        values = {k: v[members] for k, v in values.items()}
        coord = coord[members]
    else:
        values = {k: _mean(v, order, starts) for k, v in values.items()}
        if "quat" in values and "quat" not in absent:
            values["quat"] = canonical_quats(values["quat"])
        coord = _mean(coord, order, starts)
    if "shape" in inputs.features:  # of one point per voxel: how densely splats lie says nothing about shape
        normals = scene_normals(scene, inputs.normals)
        values["shape"] = shape_context(
            coord, normals[members] if members is not None else _mean(normals, order, starts)
        )
    return VoxelInputs(one_cloud(coord, grid, values, inputs, absent), inverse, members)


def nearest_rows(coord: NDArray[np.floating], count: int, rng: np.random.Generator) -> I64:
    """At most `count` rows of `coord` [M, 3], ascending: the nearest to a drawn one."""
    if len(coord) <= count:
        return np.arange(len(coord))
    distance = ((coord - coord[int(rng.integers(len(coord)))]) ** 2).sum(1)
    return np.sort(np.argpartition(distance, count - 1)[:count])


def middle_xy(coord: NDArray[np.floating]) -> NDArray[np.float64]:
    """The middle of the box around `coord` [M, 3] in x and y, and 0 in z."""
    low, high = bounds(coord)
    return np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, 0.0])


def check_channels(config: EncoderConfig) -> None:
    """Raise ConfigError where an encoder takes another number of channels than its inputs give."""
    if config.inputs.channels != config.in_channels:
        raise ConfigError(
            f"encoder {config.name}: its inputs ({', '.join(config.inputs.features)}) give {config.inputs.channels} "
            f"channels, but it takes {config.in_channels}; set `inputs` to the attributes it was trained with"
        )


def one_cloud(
    coord: NDArray[np.floating],
    grid: I64,
    values: Mapping[str, NDArray[np.floating]],
    inputs: InputConfig,
    absent: Collection[str] = (),
) -> PointBatch:
    """The batch of M voxels `grid` [M, 3] at `coord` [M, 3] m with the attributes `values` [M, width] of `inputs`."""
    columns = [values[k] for k in inputs.features]
    if inputs.indicator:
        present = np.array([k not in absent for k in inputs.features], dtype=np.float32)
        columns.append(np.broadcast_to(present, (len(grid), len(present))))
    return PointBatch(
        coord=torch.from_numpy((coord * inputs.coord_scale).astype(np.float32)),
        grid_coord=torch.from_numpy(grid),
        feat=torch.from_numpy(np.concatenate(columns, axis=1).astype(np.float32)),
        offset=torch.tensor([len(grid)]),
    )


def missing_in_points(
    config: EncoderConfig, advice: str = "let the points be turned into Gaussians, or use an encoder for points"
) -> tuple[str, ...]:
    """The attributes among the encoder's inputs that a point cloud lacks; ConfigError, with `advice`, where it cannot
    do without.
    """
    lacking = tuple(f for f in POINT_CLOUD_LACKS if f in config.inputs.features)
    if lacking and not config.inputs.indicator:
        raise ConfigError(
            f"encoder {config.name} needs {', '.join(lacking)} and was not trained to do without (inputs.indicator); "
            f"{advice}"
        )
    return lacking


def centred(means: NDArray[np.floating]) -> NDArray[np.float64]:
    """Coordinates [N, 3] f64 relative to the middle (x, y) and the bottom (z) of the bounding box."""
    coord = np.asarray(means, dtype=np.float64)
    low, high = bounds(coord)
    return coord - np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])


def voxelise(coord: NDArray[np.floating], grid_size: float) -> tuple[I64, I64, I64, I64]:
    """Voxels of coordinates [N, 3].

    Returns:
        grid [M, 3] (>= 0, ascending by x, y, z), inverse [N] (voxel of each row), starts [M] and order [N]: the rows
        of voxel m are order[starts[m] : starts[m + 1]], ascending.
    """
    cell = np.floor(coord / grid_size).astype(np.int64)
    low, high = bounds(cell)
    cell -= low
    size = high - low + 1
    key = (cell[:, 0] * size[1] + cell[:, 1]) * size[2] + cell[:, 2]
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    inverse = np.empty(len(key), dtype=np.int64)
    inverse[order] = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(key))))
    return np.ascontiguousarray(cell[order[first]]), inverse, first, order


def attributes(
    scene: GaussianScene, coord: NDArray[np.floating], inputs: InputConfig, absent: Collection[str] = ()
) -> dict[str, F32]:
    """The attributes of single Gaussians that `inputs` names, each [N, width], in the encoder's ranges; absent ones are
    zeros.
    """
    makers = {
        "coord": lambda: (coord * inputs.coord_scale).astype(np.float32),
        "color": lambda: scene.colors * 2 - 1 if inputs.color_range == "symmetric" else scene.colors,
        "opacity": lambda: np.maximum(scene.opacities, inputs.opacity_min)[:, None],
        "quat": lambda: scene.quats,
        "scale": lambda: scene.scales if inputs.scale_clip is None else np.minimum(scene.scales, inputs.scale_clip),
        "normal": lambda: scene_normals(scene, inputs.normals),
    }
    return {
        k: np.zeros((len(scene), ATTRIBUTE_WIDTHS[k]), np.float32) if k in absent else makers[k]()
        for k in inputs.features
        if k in makers
    }


def _mean(values: NDArray[np.floating], order: I64, starts: I64) -> NDArray[np.floating]:
    """Mean of `values` [N, C] over the members of every voxel; [M, C]."""
    counts = np.diff(np.append(starts, len(order)))[:, None]
    return np.add.reduceat(values[order].astype(np.float64), starts, axis=0) / counts
