"""CacheDataset: samples for training, each a pure function of (seed, epoch, index).

scene -> crop -> augment -> voxels -> targets per voxel. A voxel's target is the evidence-weighted mean over all its
Gaussians, which is the lifted feature of the voxel as a whole (lifting stores sums, and sums add), while its input is
one Gaussian drawn at random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from chorus_common.errors import CacheError, ConfigError
from chorus_common.scene import GaussianScene
from stage2_distill.data.augment import AugmentConfig, augment
from stage2_distill.data.batch import Batch, LabelGroups, MaskGroups, Target, collate
from stage2_distill.data.crops import crop_rows
from stage2_distill.data.groups import label_groups, mask_groups
from stage2_distill.data.order import SAMPLE, Mixture, generator, mixture
from stage2_distill.data.targets import ByteBudget, LiftedRows, SceneStore, SceneTargets
from stage2_distill.encoder import EncoderConfig
from stage2_distill.encoder.inputs import scene_inputs
from stage2_distill.settings import DataSettings, TeacherSettings

#: How often a sample without a single target is drawn anew before its scene is blamed.
REDRAWS = 10


@dataclass(frozen=True)
class SceneEntry:
    """One scene to train on: its data set, its id, the fingerprint of its cache and its opened store."""

    dataset: str
    scene_id: str
    fingerprint: str
    store: SceneStore


class CacheDataset:
    """Samples drawn from scene stores.

    Args:
        scenes: sorted by the caller; the order is part of what (seed, epoch, index) means.
        teachers: {name: channels} of the teachers to train on. settings: of these teachers (their contrastive terms
            need groups).
        batch_size: samples per optimiser step over all processes.
    """

    def __init__(
        self,
        scenes: Sequence[SceneEntry],
        teachers: Mapping[str, int],
        settings: Mapping[str, TeacherSettings],
        encoder: EncoderConfig,
        data: DataSettings,
        augmentation: AugmentConfig,
        *,
        seed: int,
        batch_size: int,
    ) -> None:
        if not scenes:
            raise ConfigError("no scenes to train on; check --manifest, --split and --store")
        self.encoder, self.data, self.augmentation, self.seed = encoder, data, augmentation, seed
        self.contrasts = {
            name: s for name, s in settings.items() if name in teachers and (s.masks.weight > 0 or s.labels.weight > 0)
        }
        sizes: dict[str, list[SceneEntry]] = {}
        for entry in scenes:
            sizes.setdefault(entry.dataset, []).append(entry)
        unknown = sorted(set(data.weights) - set(sizes))
        if unknown:
            raise ConfigError(f"data.weights names data set '{unknown[0]}', the stores hold {', '.join(sizes)}")
        self.mixture: Mixture = mixture(
            {k: len(v) for k, v in sizes.items()}, data.weights, data.samples_per_epoch, batch_size
        )
        budget = ByteBudget(data.memory_mb * 2**20)
        self.scenes = [
            SceneTargets(
                e.store, e.scene_id, teachers, min_weight=data.min_weight, min_views=data.min_views, budget=budget
            )
            for entries in sizes.values()
            for e in entries
        ]
        for scene in self.scenes:
            if not scene.teachers:
                raise CacheError(
                    f"scene {scene.name}: none of the teachers {', '.join(teachers)} in its store; "
                    "leave it out or run stage 1 for it"
                )

    @property
    def steps_per_epoch(self) -> int:
        return self.mixture.steps

    def batch(self, step: int, first: int, last: int) -> Batch:
        """Samples first..last-1 of optimiser step `step`'s batch, counted from the start of the run."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order = self.mixture.epoch(self.seed, epoch)
        start = within * self.mixture.batch
        return collate([self.sample(epoch, i, int(order[i])) for i in range(start + first, start + last)])

    def sample(self, epoch: int, index: int, number: int) -> Batch:
        """Sample `index` of `epoch`, from scene `number`: a batch of one cloud."""
        scene = self.scenes[number]
        for attempt in range(REDRAWS):
            drawn = self._draw(scene, generator(self.seed, SAMPLE, epoch, index, attempt))
            if drawn is not None:
                return drawn
        raise CacheError(
            f"scene {scene.name}: {REDRAWS} crops in a row held no Gaussian with evidence; "
            "lower data.min_weight or leave the scene out"
        )

    def _draw(self, scene: SceneTargets, rng: np.random.Generator) -> Batch | None:
        geometry = scene.geometry()
        views = None
        if self.data.views > 0 and self.data.views < (total := scene.n_views):
            views = np.sort(rng.permutation(total)[: self.data.views]).tolist()
        rows = crop_rows(geometry.scene.means, geometry.valid, self.data.crop, self.data.max_points, rng)
        whole = len(rows) == len(geometry.scene)
        cropped = replace(geometry.scene if whole else geometry.scene.select(rows), source_ids=np.arange(len(rows)))
        augmented = augment(cropped, self.augmentation, rng)
        points, inverse = scene_inputs(augmented, self.encoder, training=True, seed=int(rng.integers(2**31)))
        lifted = scene.targets(rows, geometry, views)
        targets = voxel_targets(lifted, augmented.source_ids, inverse, len(points))
        if not targets:
            return None
        masks, labels = {}, {}
        for name, settings in self.contrasts.items():
            if name not in targets:
                continue
            drawn = self._masks(scene, settings, rows[augmented.source_ids], inverse, len(points), rng)
            if drawn is not None:
                masks[name] = drawn
            halves = self._labels(augmented, settings, inverse, len(points), rng)
            if halves is not None:
                labels[name] = halves
        return Batch(points, targets, (scene.name,), masks=masks, labels=labels)

    def _masks(
        self,
        scene: SceneTargets,
        settings: TeacherSettings,
        rows: NDArray[np.int64],
        inverse: NDArray[np.int64],
        n_voxels: int,
        rng: np.random.Generator,
    ) -> MaskGroups | None:
        """Masks of a few drawn views as the Gaussians at matrix rows `rows` show them."""
        chosen = settings.masks
        if chosen.weight == 0:
            return None
        index = scene.index(rows)
        seeing = np.unique(index.columns // index.grid.cells)
        views = np.sort(rng.permutation(seeing)[: chosen.views])
        masks = scene.cell_masks(chosen, views, rng)
        if masks is None:
            return None
        return mask_groups(index.select_views(views), masks, inverse, n_voxels, chosen, rng)

    def _labels(
        self,
        scene: GaussianScene,
        settings: TeacherSettings,
        inverse: NDArray[np.int64],
        n_voxels: int,
        rng: np.random.Generator,
    ) -> LabelGroups | None:
        chosen = settings.labels
        labels = scene.labels if chosen.groups == "classes" else scene.instances
        if chosen.weight == 0 or labels is None:
            return None
        return label_groups(labels, inverse, n_voxels, chosen.min_rows, rng)

    def whole(self, number: int) -> Batch:
        """A scene as it is at inference: no crop, no augmentation, fixed members."""
        scene = self.scenes[number]
        geometry = scene.geometry()
        points, inverse = scene_inputs(geometry.scene, self.encoder)
        rows = np.arange(len(geometry.scene))
        return Batch(points, voxel_targets(scene.targets(rows, geometry), rows, inverse, len(points)), (scene.name,))


def voxel_targets(
    lifted: LiftedRows, kept: NDArray[np.int64], inverse: NDArray[np.int64], n_voxels: int
) -> dict[str, Target]:
    """Evidence-weighted means per voxel; teachers without any valid Gaussian are left out.

    Args:
        kept: [n] which rows of `lifted` are there. inverse: [n] voxel of each.
    """
    weight = lifted.weight[kept]
    has = weight > 0
    if not has.any():
        return {}
    kept, weight, voxel = kept[has], weight[has], np.asarray(inverse)[has]
    matrix = sparse.csr_matrix((weight, (voxel, np.arange(len(voxel)))), shape=(n_voxels, len(voxel)))
    total = np.bincount(voxel, weights=weight, minlength=n_voxels)
    rows = np.flatnonzero(total > 0)
    matrix = matrix[rows]
    scale = (1 / total[rows]).astype(np.float32)[:, None]
    return {
        name: Target(
            torch.from_numpy(rows),
            torch.from_numpy((matrix @ values[kept].astype(np.float32)) * scale),
            torch.from_numpy(total[rows].astype(np.float32)),
            torch.zeros(len(rows), dtype=torch.int64),
        )
        for name, values in lifted.values.items()
    }
