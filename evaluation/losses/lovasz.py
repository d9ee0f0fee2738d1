"""Lovász-softmax: the tight convex surrogate of the Jaccard loss, for every class that the labels hold.

Berman, Triki and Blaschko, "The Lovász-Softmax loss" (CVPR 2018), equations 8 to 13. All classes are sorted in one
call: the loss of a batch is a handful of tensor operations whatever the number of classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lovasz_softmax(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Mean over the classes in `labels` of the Lovász extension of 1 - IoU; 0 (with a gradient) without labelled rows.

    The set is pooled over all rows ("per image" is off), as in the recipes of Pointcept.

    Args:
        probabilities: [N, K], rows sum to 1.
        labels: [N] i64 class index; rows with -1 are left out.
    """
    known = labels >= 0
    probabilities, labels = probabilities[known], labels[known]
    if len(labels) == 0:
        return probabilities.sum() * 0.0
    present = torch.unique(labels)  # [P], ascending
    wanted = (labels[:, None] == present[None, :]).to(probabilities.dtype)  # [N, P]
    errors = (wanted - probabilities[:, present]).abs()
    falling, order = torch.sort(errors, dim=0, descending=True, stable=True)
    return (falling * jaccard_steps(wanted.gather(0, order))).sum(0).mean()


@torch.no_grad()
def jaccard_steps(wanted: Tensor) -> Tensor:
    """[N, P] what the Jaccard loss of each class gains as rows are counted wrong one after the other, top row first.

    wanted: [N, P] 1 where the row belongs to the class, with at least one per column.
    """
    size = wanted.sum(0)
    missed, wrong = wanted.cumsum(0), (1 - wanted).cumsum(0)
    loss = 1 - (size - missed) / (size + wrong)
    return torch.diff(loss, dim=0, prepend=torch.zeros_like(loss[:1]))
