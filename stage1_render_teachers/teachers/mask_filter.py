"""Which of many proposed masks of one picture and level are kept: score, near-duplicates, containment.

The rule is LangSplat's and GAGS's post-filter (LangSplat preprocess.py, mask_nms): with masks sorted by score,

- a mask goes when its IoU with any better one exceeds `iou`;
- a mask goes when its score (predicted IoU x stability) is not above `score`;
- of a pair where the intersection covers less than half of one and at least 85 % of the other, the covered one goes
  when 1 - (product of the two shares) exceeds 1 - `inner`.

Theirs compares pixels pair by pair in Python; here all pairs come out of one matrix product, exactly (counts below
2^24 are whole numbers in float32), or on a CPU out of 64 pixels at a time as the bits of a word. Two slips of theirs
are not repeated: the off-by-one diagonal in the containment rule, and the rescue of the three best masks where none is
good enough (it fails there; here such a level is empty).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
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
    flat = masks.flatten(1)
    if flat.device.type == "cpu":
        flat = torch.nn.functional.pad(flat, (0, -flat.shape[1] % 64))
        return torch.from_numpy(_shared_bits(np.packbits(flat.numpy(), axis=1).view(np.uint64)))
    numbers = flat.float()
    return numbers @ numbers.T


@njit(nogil=True, cache=True, error_model="numpy")
def _shared_bits(words: NDArray[Any]) -> NDArray[Any]:
    """Ones that rows of words [M, W] u64 share pairwise, [M, M] f32."""
    pairs, quads, nibbles = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F)
    one, two, four, ones, top = np.uint64(1), np.uint64(2), np.uint64(4), np.uint64(0x0101010101010101), np.uint64(56)
    rows, width = words.shape
    out = np.zeros((rows, rows), dtype=np.float32)
    for i in range(rows):
        for j in range(i, rows):
            total = np.uint64(0)
            for k in range(width):  # the usual count of ones, sums of 2, 4, 8 bits and of the bytes; LLVM knows it
                x = words[i, k] & words[j, k]
                x = x - ((x >> one) & pairs)
                x = (x & quads) + ((x >> two) & quads)
                total += (((x + (x >> four)) & nibbles) * ones) >> top
            out[i, j] = out[j, i] = np.float32(total)
    return out


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
