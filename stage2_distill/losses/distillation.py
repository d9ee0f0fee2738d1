"""The distillation loss: how far a predicted feature is from a teacher's lifted one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class DistillationTerms:
    """Weighted means over the Gaussians that were compared; `loss` is what is minimised, the others are for the log.

    loss = cosine_weight * (1 - cosine) + smooth_l1_weight * smooth_l1; cosine is the mean cosine similarity.
    """

    loss: Tensor
    cosine: Tensor
    smooth_l1: Tensor


def distillation_loss(
    predicted: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    cosine_weight: float,
    smooth_l1_weight: float,
    beta: float = 1.0,
    offset: Tensor | None = None,
    own_space: Tensor | None = None,
) -> DistillationTerms:
    """distill_t = weighted mean over Gaussians of cosine_weight (1 - cos(fhat, ftilde)) + smooth_l1_weight
    SmoothL1(fhat, ftilde)   (Chorus, arXiv 2512.17817).

    Args:
        predicted, target: [M, C] in the teacher's standardised (PHI-S) space, where every channel has unit variance, so
            that no teacher outweighs another by its scale.
        weight: [M] >= 0, with a positive sum.
        beta:   where SmoothL1 turns from square to linear; it is averaged over channels.
        offset: [C] or None. None takes the cosine in the standardised (centred) space. The teacher's mean in that space
            (its image of the origin, negated) gives the cosine of the *unstandardised* features instead: PHI-S is a
            rotation times a scalar after centring, so cos(y_p, y_t) = cos(p + offset, t + offset) and no rotation needs
            to be undone.
        own_space: [C, C] or None. The linear map back to the teacher's space (the mean cancels in a difference): takes
            SmoothL1 there, as if there were no PHI-S.

    An empty selection gives a zero that still carries a gradient path.
    """
    predicted, target, weight = predicted.float(), target.float(), weight.float()
    if len(weight) == 0:
        zero = predicted.sum() * 0
        return DistillationTerms(zero, zero.detach(), zero.detach())
    share = weight / weight.sum()
    a, b = (predicted, target) if offset is None else (predicted + offset, target + offset)
    cosine = (F.cosine_similarity(a, b, dim=1, eps=1e-6) * share).sum()
    if own_space is not None:
        predicted, target = predicted @ own_space, target @ own_space
    smooth = (F.smooth_l1_loss(predicted, target, reduction="none", beta=beta).mean(1) * share).sum()
    return DistillationTerms(cosine_weight * (1 - cosine) + smooth_l1_weight * smooth, cosine.detach(), smooth.detach())


def visibility_weight(visibility: Tensor, half: float) -> Tensor:
    """Weight of each Gaussian from its visibility [M] (sum of blending weights): e / (e + half); half = 0 weighs all
    alike.

    Saturating, because a large floor Gaussian collects thousands of times the visibility of a chair leg and would
    otherwise own the loss.
    """
    return torch.ones_like(visibility) if half == 0 else visibility / (visibility + half)


def cloud_shares(weight: Tensor, cloud: Tensor, n_clouds: int) -> tuple[Tensor, Tensor]:
    """Weights [M] that sum to the same in every cloud, and the share [] of the batch's clouds that have any row.

    So that a match is the mean of its clouds' matches: two processes with a cloud each learn what one with both does.
    """
    sums = weight.new_zeros(n_clouds).scatter_add_(0, cloud, weight)
    return weight / sums[cloud], (sums > 0).sum() / n_clouds
