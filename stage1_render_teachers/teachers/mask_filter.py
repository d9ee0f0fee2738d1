"""Which of many proposed masks of one picture and level are kept: score, near-duplicates, containment.

The rule is LangSplat's and GAGS's post-filter (LangSplat preprocess.py, mask_nms): with masks sorted by score,

- a mask goes when its IoU with any better one exceeds `iou`;
- a mask goes when its score (predicted IoU x stability) is not above `score`;
- of a pair where the intersection covers less than half of one and at least 85 % of the other, the covered one goes
  when 1 - (product of the two shares) exceeds 1 - `inner`.

Theirs compares pixels pair by pair in Python; here all pairs come out of one matrix product, exactly (counts below
2^24 are whole numbers in float32). Two slips of theirs are not repeated: the off-by-one diagonal in the containment
rule, and the rescue of the three best masks where none is good enough (it fails there; here such a level is empty).
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from chorus_common.runtime.config import Config

COVERED, COVERING = 0.85, 0.5


class MaskFilter(Config):
    """Thresholds of `keep_masks`; defaults of LangSplat and GAGS."""

    iou: float = Field(default=0.8, ge=0, le=1)
    score: float = Field(default=0.7, ge=0, le=1)
    inner: float = Field(default=0.5, ge=0, le=1)


def pair_intersections(masks: Tensor) -> Tensor:
    """Pixels that masks [M, h, w] bool share pairwise, [M, M] f32, exact below 2^24 pixels; the diagonal is areas."""
    flat = masks.flatten(1).float()
    return flat @ flat.T


def keep_masks(masks: Tensor, scores: Tensor, rule: MaskFilter) -> Tensor:
    """Indices [K] i64 of the masks [M, h, w] bool (none empty) that stay, best score [M] first; ties by index."""
    order = scores.argsort(descending=True, stable=True)
    shared = pair_intersections(masks[order])
    area = shared.diagonal()
    iou = shared / (area[:, None] + area[None] - shared)
    duplicate = (iou > rule.iou).triu(diagonal=1).any(dim=0)

    share = shared / area[:, None]  # [i, j]: how much of i lies in j
    contained = (share >= COVERED) & (share.T < COVERING) & (1 - share * share.T > 1 - rule.inner)
    contained.fill_diagonal_(False)
    keep = ~duplicate & ~contained.any(dim=1) & (scores[order] > rule.score)
    return order[keep]
