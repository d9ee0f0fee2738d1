"""CacheDataset: samples for training, each a pure function of (seed, epoch, index).

scene -> crop -> augment -> (mix with another scene's crop) -> voxels (-> the nearest of them) -> targets per voxel. A
voxel's target is the visibility-weighted mean over all its Gaussians, which is the lifted feature of the voxel as a
whole (lifting stores sums, and sums add), while its input is one Gaussian drawn at random; or it is this one's
(`data.voxel_target`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from chorus_common.runtime.errors import CacheError, ConfigError
from chorus_common.scene import GaussianScene
from stage2_distill.data.augment import AugmentConfig, augment
from stage2_distill.data.batch import Batch, Draw, LabelGroups, MaskGroups, TeacherTarget, collate
from stage2_distill.data.crops import chunk_rows, crop_rows, thinned
from stage2_distill.data.groups import label_groups, mask_groups
from stage2_distill.data.mix import joint_scene, stacked_masks, summed_targets
from stage2_distill.data.order import MEASURED, SAMPLE, Mixture, generator, mixture
from stage2_distill.data.rendered import rendered_targets
from stage2_distill.data.target_space import TargetSpace
from stage2_distill.data.targets import ByteBudget, Geometry, SceneStore, SceneTargets, voxel_targets
from stage2_distill.encoder import EncoderConfig
from stage2_distill.encoder.inputs import POINT_CLOUD_LACKS, VoxelInputs, missing_in_points, voxel_inputs
from stage2_distill.settings import DataSettings, Objective, TeacherSettings
from stage2_distill.sparse_rows import SparseRows

I64 = NDArray[np.int64]

#: How often a sample without a single target is drawn anew before its scene is blamed.
REDRAWS = 10


@dataclass(frozen=True)
class SceneEntry:
    """One scene to train on: its data set, its id, the fingerprint of its cache and its opened store."""

    dataset: str
    scene_id: str
    fingerprint: str
    store: SceneStore


def scene_identities(entries: Sequence[SceneEntry]) -> list[tuple[str, str, str]]:
    """(data set, scene id, fingerprint) of each, in order: what a resumed run must find again."""
    return [(e.dataset, e.scene_id, e.fingerprint) for e in entries]


@dataclass(frozen=True, eq=False)
class SceneSample:
    """One scene's share of a sample.

    rows [R]: rows of the lifting matrix that the crop has. kept [M]: which of them augmentation left, as positions in
    `rows`. augmented: these M Gaussians as the encoder sees them.
    """

    scene: SceneTargets
    geometry: Geometry
    rows: I64
    kept: I64
    augmented: GaussianScene

    @property
    def kept_rows(self) -> I64:
        return self.rows[self.kept]


@dataclass(frozen=True, eq=False)
class PlainScene:
    """A scene as it is at inference, as a batch of one; voxel [N] of every Gaussian; the scene with its labels."""

    batch: Batch
    voxel: I64
    scene: GaussianScene


class CacheDataset:
    """Samples drawn from scene stores.

    Args:
        scenes: sorted by the caller; the order is part of what (seed, epoch, index) means.
        teachers: {name: channels} of the teachers to train on. settings: of these teachers (their contrastive terms
            need groups).
        objective: whether targets are lifted to voxels, or the voxels rendered to the teachers' cells.
        batch_size: samples per optimiser step over all processes.
        spaces: of teachers whose targets are wanted in another space than the stores', or not all of them.
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
        objective: Objective = "lifted",
        spaces: Mapping[str, TargetSpace] | None = None,
    ) -> None:
        if not scenes:
            raise ConfigError("no scenes to train on; check --manifest, --split and --store")
        if data.points_p > 0:
            missing_in_points(
                encoder,
                "data.points_p > 0 takes encoder.overrides.inputs.indicator = true, or features that points have",
            )
        self.encoder, self.data, self.augmentation, self.seed = encoder, data, augmentation, seed
        self.objective, self.spaces = objective, dict(spaces or {})
        translations = {name: s.translation for name, s in self.spaces.items() if s.translation is not None}
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
                e.store,
                e.scene_id,
                {n: c for n, c in teachers.items() if _asked_about(settings.get(n), e.dataset)},
                min_weight=data.min_weight,
                min_views=data.min_views,
                budget=budget,
                translations=translations,
                dataset=e.dataset,
            )
            for entries in sizes.values()
            for e in entries
        ]
        for scene in self.scenes:
            if not scene.teachers:
                wanted = [n for n in teachers if _asked_about(settings.get(n), scene.dataset)]
                raise CacheError(
                    f"scene {scene.name}: none of the teachers {', '.join(wanted)} in its store; "
                    "leave it out or run stage 1 for it"
                    if wanted
                    else f"scene {scene.name}: teachers.NAME.datasets asks no teacher about '{scene.dataset}'"
                )
            if objective == "rendered" and scene.n_views == 0:
                raise ConfigError(
                    f"scene {scene.name}: was imported with features per Gaussian and has no views to render to; leave "
                    'it out, or train with objective = "lifted"'
                )

    def batch(self, step: int, first: int, last: int) -> Batch:
        """Samples first..last-1 of optimiser step `step`'s batch, counted from the start of the run."""
        return collate([self.sample(*drawn) for drawn in self.mixture.batch_samples(self.seed, step, first, last)])

    def sample(self, epoch: int, index: int, number: int) -> Batch:
        """Sample `index` of `epoch`, from scene `number`: a batch of one cloud."""
        scene = self.scenes[number]
        for attempt in range(REDRAWS):
            drawn = self._draw(scene, generator(self.seed, SAMPLE, epoch, index, attempt))
            if drawn is not None:
                return drawn
        raise CacheError(
            f"scene {scene.name}: {REDRAWS} crops in a row held nothing that a teacher says; lower "
            f"{'data.min_weight' if self.objective == 'lifted' else 'data.cover'} or leave the scene out"
        )

    def plain(self, number: int, draw: Draw | None = None) -> PlainScene:
        """A scene as it is at inference: not augmented, with fixed members of voxels and all views.

        What is larger than `data.max_points` is cropped, always alike: a scene that trains in crops need not fit into
        memory whole. draw: which targets are wanted of a teacher (None: all), asked for teacher after teacher.
        """
        part = self._crop(self.scenes[number], self.data.max_points, generator(self.seed, MEASURED, number))
        absent = POINT_CLOUD_LACKS if self.data.points_p == 1 else ()  # a student of points has seen nothing else
        inputs = voxel_inputs(part.augmented, self.encoder, absent=absent)
        source = self._target_source(inputs)
        pixels, targets = self._targets(part, inputs.voxel, source, len(inputs.points), None, draw)
        batch = Batch(inputs.points, self._finished(targets), (part.scene.name,), pixels)
        return PlainScene(batch, inputs.voxel, part.augmented)

    # ---------------------------------------------------------------------------------------------------------- drawing

    def _draw(self, scene: SceneTargets, rng: np.random.Generator) -> Batch | None:
        data = self.data
        scenes = [scene]
        if data.mix_p > 0 and rng.random() < data.mix_p:
            scenes.append(self.scenes[int(rng.integers(len(self.scenes)))])
        parts = [self._part(s, data.max_points // len(scenes), rng) for s in scenes]
        augmented = parts[0].augmented if len(parts) == 1 else joint_scene([p.augmented for p in parts])
        absent = POINT_CLOUD_LACKS if data.points_p > 0 and rng.random() < data.points_p else ()
        inputs = voxel_inputs(
            augmented,
            self.encoder,
            training=True,
            seed=int(rng.integers(2**31)),
            absent=absent,
            max_voxels=data.max_voxels,
        )
        points, n = inputs.points, len(inputs.points)
        source = self._target_source(inputs)
        ends = np.cumsum([len(p.augmented) for p in parts])[:-1]
        voxels, sources = np.split(inputs.voxel, ends), np.split(source, ends)
        found: list[dict[str, TeacherTarget]] = []
        pixels: list[SparseRows] = []
        for part, voxel, own_source in zip(parts, voxels, sources):
            own, targets = self._targets(part, voxel, own_source, n, self._views(part.scene, rng))
            found.append(targets)
            if own is not None:
                pixels.append(own)
        targets = self._finished(summed_targets(found, [len(p) for p in pixels]))
        if not targets:
            return None
        targets = {name: target.drawn(data.max_targets, rng) for name, target in targets.items()}
        masks, labels = {}, {}
        for name, settings in self.contrasts.items():
            if name not in targets:
                continue
            drawn = [self._masks(p, settings, v, n, rng) for p, v in zip(parts, voxels)]
            if any(d is not None for d in drawn):
                masks[name] = stacked_masks([d for d in drawn if d is not None])
            label_groups = self._labels(augmented, settings, source, n, targets[name], rng)
            if label_groups is not None:
                labels[name] = label_groups
        names = tuple(p.scene.name for p in parts)
        points = replace(points, seeds=torch.tensor([int(rng.integers(2**63 - 1))]))
        return Batch(points, targets, names, SparseRows.stack(pixels) if pixels else None, masks, labels)

    def _part(self, scene: SceneTargets, max_points: int, rng: np.random.Generator) -> SceneSample:
        part = self._crop(scene, max_points, rng)
        found = augment(part.augmented, self.augmentation, rng)
        return replace(part, augmented=found.scene, kept=found.kept)

    def _crop(self, scene: SceneTargets, max_points: int, rng: np.random.Generator) -> SceneSample:
        geometry, data = scene.geometry(), self.data
        means, valid = geometry.scene.means, geometry.valid
        if data.crop == "chunks":
            grid = data.chunks
            rows = chunk_rows(
                means,
                valid,
                size=grid.size,
                stride=grid.stride,
                height=grid.heights.get(scene.dataset),
                min_rows=grid.min_rows,
                rng=rng,
            )
            rows = rows[crop_rows(means[rows], valid[rows], "sphere", max_points, rng)]
        else:
            rows = crop_rows(means, valid, data.crop, max_points, rng)
        if data.thin > 0:
            rows = rows[thinned(means[rows], valid[rows], data.thin, rng)]
        whole = len(rows) == len(geometry.scene)
        cropped = geometry.scene if whole else geometry.scene.select(rows)
        return SceneSample(scene, geometry, rows, np.arange(len(rows), dtype=np.int64), cropped)

    def _views(self, scene: SceneTargets, rng: np.random.Generator) -> list[int] | None:
        """The views of a sample: a random subset, or None for all."""
        if self.data.views > 0 and self.data.views < (total := scene.n_views):
            return np.sort(rng.permutation(total)[: self.data.views]).tolist()
        return None

    def _target_source(self, inputs: VoxelInputs) -> I64:
        """Voxel [N] that each Gaussian is part of the target of, -1 = of none: of its own, or, where targets are those
        of members, only of the one whose input it is.
        """
        if self.data.voxel_target == "mean" or inputs.members is None:
            return inputs.voxel
        source = np.full(len(inputs.voxel), -1, dtype=np.int64)
        source[inputs.members] = np.arange(len(inputs.members))
        return source

    def _finished(self, targets: Mapping[str, TeacherTarget]) -> dict[str, TeacherTarget]:
        """The targets that count, in the spaces that they are compared in."""
        found = {n: self.spaces[n].finished(t) if n in self.spaces else t for n, t in targets.items()}
        return {name: target for name, target in found.items() if target is not None}

    def _targets(
        self,
        part: SceneSample,
        voxel: I64,
        source: I64,
        n_voxels: int,
        views: list[int] | None,
        draw: Draw | None = None,
    ) -> tuple[SparseRows | None, dict[str, TeacherTarget]]:
        """What the teachers say about a part: of its voxels (whose targets come from `source`), or of the pixels that
        it shows.
        """
        if self.objective == "lifted":
            lifted = part.scene.targets(part.rows, part.geometry, views)
            there = source >= 0
            return None, voxel_targets(lifted, part.kept[there], source[there], n_voxels, draw)
        there = voxel >= 0
        rows, voxel = part.kept_rows[there], voxel[there]
        return rendered_targets(part.scene, rows, voxel, n_voxels, views, self.data.cover, draw)

    def _masks(
        self, part: SceneSample, settings: TeacherSettings, voxel: I64, n_voxels: int, rng: np.random.Generator
    ) -> MaskGroups | None:
        """Masks of a few drawn views as a part's Gaussians show them."""
        chosen = settings.masks
        if chosen.weight == 0:
            return None
        there = voxel >= 0
        index, voxel = part.scene.index(part.kept_rows[there]), voxel[there]
        seeing = np.unique(index.columns // index.grid.cells)
        views = np.sort(rng.permutation(seeing)[: chosen.views])
        masks = part.scene.cell_masks(chosen, views, rng)
        if masks is None or len(views) == 0:
            return None
        return mask_groups(index.select_views(views), masks, voxel, n_voxels, chosen, rng)

    def _labels(
        self,
        scene: GaussianScene,
        settings: TeacherSettings,
        source: I64,
        n_voxels: int,
        target: TeacherTarget,
        rng: np.random.Generator,
    ) -> LabelGroups | None:
        chosen = settings.labels
        labels = scene.labels if chosen.groups == "classes" else scene.instances
        if chosen.weight == 0 or labels is None:
            return None
        there = source >= 0
        if chosen.rows == "targets":
            has = np.zeros(n_voxels, dtype=bool)
            has[target.rows.numpy()] = True
            there &= has[source]
        return label_groups(labels[there], source[there], n_voxels, chosen.min_rows, rng)


def _asked_about(settings: TeacherSettings | None, dataset: str) -> bool:
    return settings is None or not settings.datasets or dataset in settings.datasets
