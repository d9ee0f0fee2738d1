"""Losses of a field over the cells of a step, as segment reductions (GAGS, train.py:151-172, utils/loss_utils.py).

Cells of several views may stand in one step: mask numbers name their view, so regions never join across views.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from chorus_common.segments import segment_reduce

EPSILON = 1e-6


def mixed_target(embeddings: Tensor, probabilities: Tensor) -> Tensor:
    """F* = sum_k p_k f_k [X, E] of embeddings [X, K, E] and probabilities [X, K]; not normalised again."""
    return (probabilities[..., None] * embeddings).sum(dim=1)


def region_balanced_l1(predicted: Tensor, target: Tensor, regions: Tensor, n_regions: int) -> Tensor:
    """L_r-distill: mean over regions of the mean over their cells of the mean absolute difference over channels.

    A small mask counts as much as a wall. predicted, target [X, E]; regions [X] i64, each of 0..n_regions-1 in use.
    """
    error = (predicted - target).abs().mean(dim=1)
    return segment_reduce(error, regions, n_regions, "mean").mean()


def entropy(probabilities: Tensor) -> Tensor:
    """L_ent: mean over cells and levels of -p log(p + 1e-6); pushes the choice to one level."""
    return -(probabilities * (probabilities + EPSILON).log()).mean()


def region_variance(rendered: Tensor, regions: Tensor, n_regions: int) -> Tensor:
    """L_var = 1/X sum_r |r| mean_c Var_{x in r} of rendered vectors [X, C]: regions become uniform.

    |r| Var_r is the sum of squared deviations, so nothing is divided by |r| - 1: a region of one cell has none (the
    unbiased variance of one number would be NaN; which of both is published is not known).
    """
    mean = segment_reduce(rendered, regions, n_regions, "mean")
    return (rendered - mean.index_select(0, regions)).square().mean()


def chosen_masks(
    probabilities: Tensor, masks: Tensor, cells: Tensor, view: Tensor, n_views: int, rows: int, cols: int, blur: int
) -> Tensor:
    """The mask [X] of each cell at its most probable level, after a box blur of the probabilities in its view.

    Cells that are not in the step count neither in the sum nor in the number. Ties go to the coarser level.

    Args:
        probabilities: [X, K]. masks: [X, K], a mask's number at every level.
        cells, view: [X] cell index, and which of the step's `n_views` views it is in.
        blur: odd side of the box.
    """
    levels = probabilities.shape[1]
    if blur > 1:
        picture = probabilities.new_zeros(n_views * rows * cols, levels)
        at = view * (rows * cols) + cells
        picture[at] = probabilities.detach()
        picture = picture.view(n_views, rows, cols, levels).permute(0, 3, 1, 2)  # [B, K, rows, cols]
        # dividing by the number of cells in the box would change no maximum, so sums will do
        sums = F.avg_pool2d(picture, blur, stride=1, padding=blur // 2, divisor_override=1)
        probabilities = sums.permute(0, 2, 3, 1).reshape(-1, levels)[at]
    return masks.gather(1, probabilities.argmax(dim=1, keepdim=True)).squeeze(1)


def compact(ids: Tensor) -> tuple[Tensor, int]:
    """Ids [X] as 0..R-1 in ascending order of the original, and R."""
    unique, inverse = torch.unique(ids, return_inverse=True)
    return inverse, len(unique)
