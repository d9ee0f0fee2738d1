"""Samples for pretraining, each a pure function of (seed, epoch, index).

scene -> augmentation (cameras move along) -> cuboid of the whole scene -> masked points -> voxels and their cells, with
some posed views as targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chorus_common.rotations import rotate, rotation_about
from chorus_common.runtime.errors import ConfigError
from chorus_common.scene import GaussianScene
from stage2_distill.data.augment import flip, jitter, jitter_colors, rescale, shift_colors
from stage2_distill.data.order import SAMPLE, Mixture, generator, mixture
from stage2_distill.encoder import EncoderConfig, PointBatch
from stage2_distill.encoder.inputs import centred, scene_inputs
from stage2_distill.gaussiancross.cuboid import Cuboid
from stage2_distill.gaussiancross.masking import visible_points
from stage2_distill.gaussiancross.settings import CaptureAugment, GaussianCrossConfig
from stage2_distill.gaussiancross.views import SceneViews
from stage2_distill.gaussiancross.voxels import MeasuredVoxels

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SupervisedView:
    """One view to render: scene is the cloud's number in the batch, viewmat [4, 4] cuboid to camera, intrinsics [3, 3],
    color [H, W, 3], depth [H, W], teachers {name: [cells, C]}. colored [P], measured [Q] i64: pixels (row * W + column)
    whose colour is known, and whose depth was measured; as numbers, for which no device has to be asked.
    """

    scene: int
    viewmat: Tensor
    intrinsics: Tensor
    color: Tensor
    depth: Tensor
    colored: Tensor
    measured: Tensor
    teachers: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class CaptureBatch:
    """Some clouds, what was measured of their voxels, views of them, and the scenes' names."""

    points: PointBatch
    voxels: MeasuredVoxels
    supervised_views: tuple[SupervisedView, ...]
    scenes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class CaptureScene:
    """A scene to learn from: its points, which the encoder eats, and its views."""

    dataset: str
    points: GaussianScene
    views: SceneViews


class CaptureDataset:
    """Samples drawn from scenes. Args: scenes in a fixed order, grouped by data set."""

    def __init__(self, scenes: Sequence[CaptureScene], encoder: EncoderConfig, config: GaussianCrossConfig) -> None:
        if not scenes:
            raise ConfigError("no scenes to learn from; check --manifest, --split and --store")
        self.encoder, self.config = encoder, config
        groups: dict[str, list[CaptureScene]] = {}
        for scene in scenes:
            groups.setdefault(scene.dataset, []).append(scene)
        self.scenes = [scene for group in groups.values() for scene in group]
        sizes = {name: len(group) for name, group in groups.items()}
        self.mixture: Mixture = mixture(sizes, {}, config.data.samples_per_epoch, config.batch_size)

    def batch(self, step: int, first: int, last: int) -> CaptureBatch:
        """Samples first..last-1 of optimiser step `step`'s batch, counted from the start of the run."""
        drawn = self.mixture.batch_samples(self.config.seed, step, first, last)
        return collate([self.sample(*sample) for sample in drawn], int(np.prod(self.config.head.grid)))

    def sample(self, epoch: int, index: int, number: int) -> CaptureBatch:
        """Sample `index` of `epoch`, from scene `number`: a batch of one cloud."""
        config, scene = self.config, self.scenes[number]
        rng = generator(config.seed, SAMPLE, epoch, index)
        moved, matrix = move(scene.points, config.augment, rng)
        cuboid = Cuboid.of(moved.means, who=f"scene {scene.views.name}")
        rows = visible_points(moved.means, config.mask.ratio, config.mask.block, rng)
        if 0 < config.data.max_points < len(rows):
            rows = np.sort(rng.permutation(rows)[: config.data.max_points])
        seen = moved.select(rows)
        cloud = disturb(seen, config.augment, rng)
        points, inverse = scene_inputs(cloud, self.encoder, training=True, seed=int(rng.integers(2**31)))
        # scene_inputs works in coordinates of its own (middle and bottom of the visible points)
        shift = cloud.means[0].astype(np.float64) - centred(cloud.means)[0]
        at = self.encoder.inputs.metres(points.coord)
        voxels = MeasuredVoxels.of(
            at.numpy().astype(np.float64) + shift, seen.colors, inverse, self.encoder.inputs.grid_size,
            cuboid, config.head.grid,
        )  # fmt: skip
        views = scene.views.views
        drawn = np.sort(rng.permutation(len(views))[: config.data.views])
        supervised_views = tuple(self._supervised_view(scene.views, views[i], cuboid, matrix) for i in drawn)
        return CaptureBatch(points, voxels, supervised_views, (scene.views.name,))

    @staticmethod
    def _supervised_view(views: SceneViews, view: int, cuboid: Cuboid, matrix: F64) -> SupervisedView:
        target = views.view(view)
        return SupervisedView(
            0,
            torch.from_numpy(cuboid.viewmats(target.viewmat @ np.linalg.inv(matrix))),
            torch.from_numpy(target.intrinsics),
            torch.from_numpy(target.color.astype(np.float32)),
            torch.from_numpy(target.depth),
            torch.from_numpy(np.flatnonzero(target.known)),
            torch.from_numpy(np.flatnonzero(target.depth > 0)),
            {name: torch.from_numpy(values.astype(np.float32)) for name, values in target.teachers.items()},
        )


def move(scene: GaussianScene, config: CaptureAugment, rng: np.random.Generator) -> tuple[GaussianScene, F64]:
    """A turn about z, flips and one scale, and the matrix [4, 4] that does the same to any point.

    viewmat @ inv(matrix) sees the moved scene as viewmat saw the scene, mirrored and scaled ones included.
    """
    matrix = np.eye(4)
    if config.rotate_z:
        turn = rotation_about("z", float(rng.uniform(-np.pi, np.pi)))
        scene = rotate(scene, turn, np.zeros(3))
        matrix[:3, :3] = turn @ matrix[:3, :3]
    for axis in (0, 1):
        if rng.random() < config.flip_p:
            scene = flip(scene, axis)
            matrix[axis] *= -1
    factor = float(rng.uniform(*config.scale))
    matrix[:3] *= factor
    return rescale(scene, factor), matrix


def disturb(scene: GaussianScene, config: CaptureAugment, rng: np.random.Generator) -> GaussianScene:
    """Noise on what the encoder sees; the pictures stay as they were."""
    if config.jitter_m > 0:
        scene = jitter(scene, rng, config.jitter_m)
    if config.color_shift > 0:
        scene = shift_colors(scene, rng, config.color_shift)
    if config.color_jitter > 0:
        scene = jitter_colors(scene, rng, config.color_jitter)
    return scene


def collate(samples: Sequence[CaptureBatch], cells: int) -> CaptureBatch:
    """One batch of several clouds with `cells` grid cells each."""
    supervised_views = tuple(
        replace(supervised, scene=b) for b, sample in enumerate(samples) for supervised in sample.supervised_views
    )
    return CaptureBatch(
        PointBatch.concatenate([s.points for s in samples]),
        MeasuredVoxels.concatenate([s.voxels for s in samples], cells),
        supervised_views,
        tuple(name for s in samples for name in s.scenes),
    )
