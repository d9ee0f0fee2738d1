"""Proposals from the 2D masks in the cache (SAM's or the classical segmenter's), merged over views. No ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse

from chorus_common.runtime.config import Config
from chorus_common.runtime.errors import CacheError
from evaluation.proposals.observations import UNSEEN, Observations, observe
from evaluation.proposals.overlap_graph import merge_masks
from evaluation.proposals.proposals import Proposals, rows_to_masks
from evaluation.targets import EvalTarget

F64 = NDArray[np.float64]


class MergeConfig(Config):
    """How 2D masks become proposals.

    Attributes:
        teacher: mask teacher of the cache; "" = the only one.
        threshold: overlap above which groups of masks are merged.
        min_size: Gaussians of a mask, and of a proposal.
        agreement: share of the views that see a Gaussian which must put it into the object.
        duplicate: of two proposals that overlap (IoU) more than this, the better one stays.
    """

    teacher: str = ""
    threshold: float = Field(default=0.4, gt=0, lt=1)
    min_size: int = Field(default=30, ge=1)
    agreement: float = Field(default=0.5, ge=0, lt=1)
    duplicate: float = Field(default=0.7, gt=0, le=1)


@dataclass(frozen=True)
class MergedMasks:
    """Every level is merged by itself, as masks of different levels overlap by construction; then duplicates go."""

    config: MergeConfig
    origin: str = "masks"
    oracle: bool = False

    def open(self, target: EvalTarget) -> Proposals:
        """Raises CacheError where the scene's cache holds no masks."""
        cache, scene = target.scene.cached(), target.scene.gaussians
        teacher = self._teacher(target)
        rows: list[NDArray[np.int64]] = []
        scores: list[float] = []
        for level in cache.mask_teachers[teacher].levels:
            observations = observe(cache, scene, teacher, level)
            group = merge_masks(observations, threshold=self.config.threshold, min_size=self.config.min_size)
            for members, score in objects(observations, group, self.config):
                rows.append(members)
                scores.append(score)
        kept = drop_duplicates(rows_to_masks(rows, len(scene)), np.array(scores), self.config.duplicate)
        masks = rows_to_masks([rows[i] for i in kept], len(scene))
        return Proposals(target.masks(masks), masks, np.array(scores)[kept])

    def _teacher(self, target: EvalTarget) -> str:
        cache = target.scene.cached()
        known = tuple(cache.mask_teachers)
        if self.config.teacher in known or (not self.config.teacher and len(known) == 1):
            return self.config.teacher or known[0]
        raise CacheError(
            f"{target.scene.name}: wanted masks of {self.config.teacher or 'the one mask teacher'}, the cache has "
            f"{', '.join(known) or 'none'}; set teacher, run stage 1 with a mask teacher, or choose other --proposals"
        )


def objects(
    observations: Observations, group: NDArray[np.int32], config: MergeConfig
) -> list[tuple[NDArray[np.int64], float]]:
    """(Gaussians, score) of every group of masks, in the order of the groups.

    A Gaussian belongs to the object that more than `agreement` of the views which see it put it into. The score is the
    mean of that share over the object's Gaussians, less for objects that few masks vouch for (n / (n + 1)).
    """
    n = len(observations.mask)
    seen = (observations.mask != UNSEEN).sum(axis=1)
    rows, views = np.nonzero(observations.mask >= 0)
    of = group[observations.mask[rows, views]]
    rows, of = rows[of >= 0], of[of >= 0]
    if len(rows) == 0:
        return []
    votes = sparse.coo_matrix((np.ones(len(rows)), (of, rows)), shape=(len(group), n)).tocsr()  # sums repeats
    n_masks = np.bincount(group[group >= 0], minlength=len(group))
    found = []
    for g in np.unique(of):
        members = votes.indices[votes.indptr[g] : votes.indptr[g + 1]].astype(np.int64)
        share = votes.data[votes.indptr[g] : votes.indptr[g + 1]] / seen[members]
        inside = share > config.agreement
        if inside.sum() >= config.min_size:
            score = float(np.sort(share[inside]).mean()) * n_masks[g] / (n_masks[g] + 1)
            found.append((np.sort(members[inside]), score))
    return found


def drop_duplicates(masks: sparse.csr_matrix, scores: F64, threshold: float) -> list[int]:
    """Rows to keep, best first: a mask stays unless one that stayed before overlaps it (IoU) more than `threshold`.

    Equal scores: the larger mask first, then the first one.
    """
    counts = masks.astype(np.int64)
    sizes = np.asarray(counts.sum(axis=1)).reshape(-1)
    shared = np.asarray((counts @ counts.T).todense())
    overlap = shared / np.maximum(sizes[:, None] + sizes[None] - shared, 1)
    kept: list[int] = []
    for i in np.lexsort((np.arange(len(scores)), -sizes, -scores)):
        if not kept or overlap[i, kept].max() <= threshold:
            kept.append(int(i))
    return kept
