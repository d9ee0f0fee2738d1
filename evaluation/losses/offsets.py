"""The loss of an offset head: where is the middle of the instance that a point belongs to?"""

from __future__ import annotations

import torch
from torch import Tensor


def offset_loss(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Mean distance (L1) plus mean (1 - cosine of directions); PointGroup, Jiang et al. (CVPR 2020), equations 1 and 2.

    Rows that already lie in the middle of their instance have no direction and count in the first term alone.

    Args:
        predicted, wanted: [M, 3] offsets in metres. M = 0 gives 0 (with a gradient).
    """
    if len(wanted) == 0:
        return predicted.sum() * 0.0
    distance = (predicted - wanted).abs().sum(1).mean()
    directed = wanted.norm(dim=1) > 1e-6
    if not directed.any():
        return distance
    cosine = torch.nn.functional.cosine_similarity(predicted[directed], wanted[directed], dim=1, eps=1e-8)
    return distance + (1 - cosine).mean()
