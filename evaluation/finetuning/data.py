"""Crops of labelled scenes, each a pure function of (seed, epoch, index): order, place, augmentation and voxels."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chorus_common.runtime.errors import CacheError, ConfigError
from chorus_common.scene import GaussianScene
from evaluation.data_efficiency import Limit
from evaluation.finetuning.settings import FineTuneConfig
from evaluation.scenes import EvalScene
from evaluation.targets import check_labels
from stage2_distill.data.augment import augment
from stage2_distill.data.crops import crop_rows
from stage2_distill.data.order import SAMPLE, generator, mixture
from stage2_distill.data.targets import ByteBudget
from stage2_distill.encoder import EncoderConfig, PointBatch
from stage2_distill.encoder.inputs import scene_inputs

I64 = NDArray[np.int64]

#: How often a crop without a label is drawn anew before its scene is blamed.
REDRAWS = 10


@dataclass(frozen=True, eq=False)
class LabelledBatch:
    """Clouds of voxels and what is known about them.

    labels [N] i64 (-1 = none); centred [M] i64 rows that belong to an instance and offsets [M, 3] f32 from their voxel
    to the middle of it (the part that the crop holds), in metres; scenes: names, for messages.
    """

    points: PointBatch
    labels: Tensor
    centred: Tensor
    offsets: Tensor
    scenes: tuple[str, ...]


class LabelledDataset:
    """Crops of training scenes.

    Args:
        scenes: in a fixed order; those that `limit` leaves out are dropped here.
        things: [K] bool, classes that have instances.
    """

    def __init__(
        self,
        scenes: Sequence[EvalScene],
        label_space: str,
        things: NDArray[np.bool_],
        encoder: EncoderConfig,
        config: FineTuneConfig,
        limit: Limit,
    ) -> None:
        allowed = set(limit.scene_ids([s.scene_id for s in scenes]))
        self.scenes = [s for s in scenes if s.scene_id in allowed]
        if not self.scenes:
            raise ConfigError("no scenes to learn from; check --train-split and the settings under 'limit'")
        self.label_space, self._things, self._encoder = label_space, things, encoder
        self._config, self._limit = config, limit
        sizes: dict[str, int] = {}
        for scene in self.scenes:
            sizes[scene.dataset] = sizes.get(scene.dataset, 0) + 1
        self._mixture = mixture(sizes, {}, 0, config.batch_size)
        self._budget = ByteBudget(config.memory_mb * 2**20)
        self._kept: dict[int, GaussianScene] = {}
        self._lock = threading.Lock()

    def batch(self, step: int, first: int, last: int) -> LabelledBatch:
        """Crops first..last-1 of optimiser step `step`."""
        drawn = self._mixture.batch_samples(self._config.seed, step, first, last)
        return collate([self.sample(*sample) for sample in drawn])

    def sample(self, epoch: int, index: int, number: int) -> LabelledBatch:
        """Sample `index` of `epoch`, from scene `number`: a batch of one cloud that holds a label."""
        scene = self.scene(number)
        for attempt in range(REDRAWS):
            drawn = self._draw(scene, number, generator(self._config.seed, SAMPLE, epoch, index, attempt))
            if (drawn.labels >= 0).any():
                return drawn
        raise CacheError(f"{self.scenes[number].name}: {REDRAWS} crops in a row held no label; leave the scene out")

    def class_counts(self, n_classes: int) -> I64:
        """[K] Gaussians per class whose label may be seen."""
        counts = np.zeros(n_classes, dtype=np.int64)
        for number in range(len(self.scenes)):
            labels = self.scene(number).labels
            assert labels is not None
            counts += np.bincount(labels[labels >= 0], minlength=n_classes)
        return counts

    def scene(self, number: int) -> GaussianScene:
        """Scene `number` with the labels that may be seen; kept in memory where there is room."""
        with self._lock:
            if number in self._kept:
                return self._kept[number]
        where = self.scenes[number]
        loaded = where.load(self.label_space)
        scene = loaded.gaussians
        if scene.labels is None or not (scene.labels >= 0).any():
            raise CacheError(f"{where.name}: no ground truth to learn from; leave it out of the training split")
        check_labels(scene.labels, self.label_space, where.name)
        if self._config.task == "instance" and scene.instances is None:
            raise CacheError(f"{where.name}: no ground-truth instances to learn from; leave it out, or task=semantic")
        scene = replace(self._limit.annotated(loaded, self.label_space), parts=None)
        with self._lock:
            if number not in self._kept and self._budget.take(_bytes(scene)):
                self._kept[number] = scene
        return scene

    def identity(self) -> dict[str, Any]:
        """Everything about the data that decides what a run computes: the label space, and of every scene its name, the
        state of its files and its annotated points.
        """
        scenes = [(s.name, s.state(), self._limit.digest(s.scene_id)) for s in self.scenes]
        return {"label_space": self.label_space, "scenes": scenes}

    def _draw(self, scene: GaussianScene, number: int, rng: np.random.Generator) -> LabelledBatch:
        assert scene.labels is not None
        rows = crop_rows(scene.means, scene.labels >= 0, "sphere", self._config.max_points, rng)
        cropped = scene if len(rows) == len(scene) else scene.select(rows)
        moved = augment(cropped, self._config.augment, rng).scene
        points, inverse = scene_inputs(moved, self._encoder, training=True, seed=int(rng.integers(2**31)))
        assert moved.labels is not None
        labels = voxel_majority(moved.labels, inverse, len(points))
        instances = np.full(len(points), -1, dtype=np.int64)
        if moved.instances is not None:
            instances = voxel_majority(moved.instances, inverse, len(points))
            instances[(labels < 0) | ~self._things[labels]] = -1
        centred, offsets = instance_offsets(self._encoder.inputs.metres(points.coord).numpy(), instances)
        return LabelledBatch(
            points,
            torch.from_numpy(labels),
            torch.from_numpy(centred),
            torch.from_numpy(offsets),
            (self.scenes[number].name,),
        )


def voxel_majority(ids: NDArray[np.integer], inverse: I64, n_voxels: int) -> I64:
    """[M] most frequent id >= 0 among the members of every voxel, the lowest of several; -1 where no member has one.

    One annotated Gaussian is enough for its voxel: annotations survive voxelisation (as Pointcept's limited
    annotations do).
    """
    result = np.full(n_voxels, -1, dtype=np.int64)
    known = np.flatnonzero(ids >= 0)
    if len(known) == 0:
        return result
    width = int(ids.max()) + 1
    keys, counts = np.unique(inverse[known] * width + ids[known], return_counts=True)
    voxel, value = np.divmod(keys, width)
    order = np.lexsort((value, -counts, voxel))
    first = np.unique(voxel[order], return_index=True)[1]
    result[voxel[order][first]] = value[order][first]
    return result


def instance_offsets(coord: NDArray[np.float32], instances: I64) -> tuple[I64, NDArray[np.float32]]:
    """Rows [M] that belong to an instance, and from each the way [M, 3] f32 to the mean of its instance's rows."""
    rows = np.flatnonzero(instances >= 0)
    if len(rows) == 0:
        return rows, np.zeros((0, 3), dtype=np.float32)
    _, member = np.unique(instances[rows], return_inverse=True)
    counts = np.bincount(member).astype(np.float64)
    at = coord[rows].astype(np.float64)
    middle = np.stack([np.bincount(member, weights=at[:, axis]) / counts for axis in range(3)], axis=1)
    return rows, (middle[member] - at).astype(np.float32)


def collate(samples: Sequence[LabelledBatch]) -> LabelledBatch:
    """One batch of several clouds."""
    starts = np.cumsum([0] + [len(s.points) for s in samples]).tolist()
    return LabelledBatch(
        PointBatch.concatenate([s.points for s in samples]),
        torch.cat([s.labels for s in samples]),
        torch.cat([s.centred + start for s, start in zip(samples, starts)]),
        torch.cat([s.offsets for s in samples]),
        tuple(name for s in samples for name in s.scenes),
    )


def _bytes(scene: GaussianScene) -> int:
    return sum(v.nbytes for v in vars(scene).values() if isinstance(v, np.ndarray))
