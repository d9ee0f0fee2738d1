"""What a training step gets: clouds, what the teachers say about them, and which of their parts belong together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stage2_distill.encoder import PointBatch
from stage2_distill.sparse_rows import SparseRows

#: Which of so many targets are wanted: their numbers, in the order they are wanted in.
Draw = Callable[[int], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class TeacherTarget:
    """What one teacher says about some voxels (or, where the batch has `pixels`, about some of these).

    rows [M] i64 distinct, values [M, C] f32 standardised, weight [M] f32 > 0, cloud [M] i64 of the batch.
    """

    rows: Tensor
    values: Tensor
    weight: Tensor
    cloud: Tensor

    def drawn(self, count: int, rng: np.random.Generator) -> TeacherTarget:
        """At most `count` of them, in their order (0 = all)."""
        if count == 0 or len(self.rows) <= count:
            return self
        chosen = torch.from_numpy(np.sort(rng.permutation(len(self.rows))[:count]))
        return TeacherTarget(*(t[chosen] for t in (self.rows, self.values, self.weight, self.cloud)))


@dataclass(frozen=True, eq=False)
class MaskGroups:
    """Pixels that one mask of one view and level holds together.

    pixels: [P] rows over the batch's voxels, each a weighted mean. group [P] i64: mask, no number twice in a batch.
    context [P] i64 ascending: view; pixels of different views are never compared. cloud [contexts] i64.
    """

    pixels: SparseRows
    group: Tensor
    context: Tensor
    cloud: Tensor


@dataclass(frozen=True, eq=False)
class LabelGroups:
    """Random halves of every group of voxels that ground truth puts together.

    half_sums: [2 K] rows over the batch's voxels, sums; 2 k and 2 k + 1 are the halves of group k.
    cloud: [K] i64 ascending.
    """

    half_sums: SparseRows
    cloud: Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Some clouds, what the teachers say about them, and the scenes they come from (for messages).

    Attributes:
        targets: by teacher. pixels: where not None, targets are about these weighted means of voxels (a 2D comparison).
        masks, labels: groups for the contrastive terms, by teacher.
    """

    points: PointBatch
    targets: Mapping[str, TeacherTarget]
    scenes: tuple[str, ...]
    pixels: SparseRows | None = None
    masks: Mapping[str, MaskGroups] = field(default_factory=dict)
    labels: Mapping[str, LabelGroups] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of clouds."""
        return len(self.points.offset)


def collate(samples: Sequence[Batch]) -> Batch:
    """One batch of several; whatever points at rows or clouds is shifted to their new place."""
    rows = [len(s.points) if s.pixels is None else len(s.pixels) for s in samples]
    starts = np.cumsum([0, *rows]).tolist()
    clouds = np.cumsum([0] + [len(s) for s in samples]).tolist()
    targets = {}
    for name in dict.fromkeys(name for s in samples for name in s.targets):
        having = [(s.targets[name], a, c) for s, a, c in zip(samples, starts, clouds) if name in s.targets]
        targets[name] = TeacherTarget(
            torch.cat([t.rows + a for t, a, _ in having]),
            torch.cat([t.values for t, _, _ in having]),
            torch.cat([t.weight for t, _, _ in having]),
            torch.cat([t.cloud + c for t, _, c in having]),
        )
    pixels = [s.pixels for s in samples if s.pixels is not None]
    return Batch(
        PointBatch.concatenate([s.points for s in samples]),
        targets,
        tuple(n for s in samples for n in s.scenes),
        SparseRows.concatenate(pixels) if pixels else None,
        {name: _join_masks(samples, clouds, name) for name in dict.fromkeys(n for s in samples for n in s.masks)},
        {name: _join_labels(samples, clouds, name) for name in dict.fromkeys(n for s in samples for n in s.labels)},
    )


def _join_masks(samples: Sequence[Batch], clouds: Sequence[int], name: str) -> MaskGroups:
    pixels, group, context, cloud = [], [], [], []
    groups = contexts = 0
    for sample, first in zip(samples, clouds):
        if name not in sample.masks:
            pixels.append(_no_rows(len(sample.points)))
            continue
        own = sample.masks[name]
        pixels.append(own.pixels)
        group.append(own.group + groups)
        context.append(own.context + contexts)
        cloud.append(own.cloud + first)
        groups, contexts = groups + int(own.group.max()) + 1, contexts + len(own.cloud)
    return MaskGroups(SparseRows.concatenate(pixels), torch.cat(group), torch.cat(context), torch.cat(cloud))


def _join_labels(samples: Sequence[Batch], clouds: Sequence[int], name: str) -> LabelGroups:
    having = [s.labels[name].half_sums if name in s.labels else _no_rows(len(s.points)) for s in samples]
    cloud = [s.labels[name].cloud + first for s, first in zip(samples, clouds) if name in s.labels]
    return LabelGroups(SparseRows.concatenate(having), torch.cat(cloud))


def _no_rows(width: int) -> SparseRows:
    nothing = torch.zeros(0, dtype=torch.int64)
    return SparseRows(torch.zeros(1, dtype=torch.int64), nothing, torch.zeros(0), width)
