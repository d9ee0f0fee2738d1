"""Teachers: the mask filter as one matrix product against the published loop over pairs."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from stage1_render_teachers.teachers.mask_filter import MaskFilter, keep_masks
from tests.bench.measure import interleaved
from tests.bench.row import Row

COMMAND = "python -m tests.bench teachers"


def rows() -> list[Row]:
    return [mask_filter()]


def blobs(n: int, height: int, width: int) -> Tensor:
    """Ellipses [n, height, width] bool of all sizes, many of them overlapping."""
    generator = torch.Generator().manual_seed(0)
    x, y, a, b = (torch.rand(n, 1, 1, generator=generator) for _ in range(4))
    down, across = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    return ((down - y) / (0.02 + 0.4 * b)) ** 2 + ((across - x) / (0.02 + 0.4 * a)) ** 2 < 1


def pair_loop(masks: Tensor, scores: Tensor, rule: MaskFilter) -> Tensor:
    """The published way: two tensor reductions for every pair of masks (LangSplat preprocess.py), without its slips."""
    order = scores.argsort(descending=True, stable=True)
    masks = masks[order]
    area = masks.sum(dim=(1, 2), dtype=torch.float)
    keep = scores[order] > rule.score
    for i in range(len(masks)):
        for j in range(i + 1, len(masks)):
            shared = (masks[i] & masks[j]).sum(dtype=torch.float)
            union = (masks[i] | masks[j]).sum(dtype=torch.float)
            of_i, of_j = shared / area[i], shared / area[j]
            if shared / union > rule.iou:
                keep[j] = False
            if of_i < 0.5 and of_j >= 0.85 and 1 - of_i * of_j > 1 - rule.inner:
                keep[j] = False
            if of_i >= 0.85 and of_j < 0.5 and 1 - of_i * of_j > 1 - rule.inner:
                keep[i] = False
    return order[keep]


def mask_filter(n: int = 150) -> Row:
    """Processor seconds to filter `n` masks of 192 x 256, SAM's own resolution for 4:3 pictures."""
    masks = blobs(n, 192, 256)
    scores = 0.6 + 0.4 * torch.rand(n, generator=torch.Generator().manual_seed(1))
    rule = MaskFilter()
    if not torch.equal(keep_masks(masks, scores, rule), pair_loop(masks, scores, rule)):
        raise AssertionError("the two filters keep different masks")
    times = interleaved(
        partial(keep_masks, masks, scores, rule), partial(pair_loop, masks, scores, rule), rounds=3, repeats=5
    )
    return times.row(
        "teachers/mask-filter", f"s for {n} masks; ratio: times faster", COMMAND,
        "loop over pairs, as published, at the same resolution", times_faster=True,
    )  # fmt: skip
