"""Contrast of ground-truth groups: two random halves of a class (or an instance) find each other among all groups.

SceneSplat's AggregatedContrastive loss (models/losses/misc.py:320-421) and the con_t of Chorus (arXiv 2512.17817). It
uses labels; the label-free form is losses/mask_contrast.py. One difference: groups are pooled per scene and not over
whatever shares a batch, so that a scene's loss does not depend on batch size or number of processes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from chorus_common.segments import segment_counts
from stage2_distill.data.batch import LabelGroups


def label_contrast(features: Tensor, labels: LabelGroups, n_clouds: int, temperature: float) -> Tensor:
    """Mean over the batch's clouds of `aggregated_contrast`; clouds with less than two groups count as zero.

    Args:
        features: [N, C] one teacher's predictions for the batch's voxels; a half is the sum of its rows.
    """
    pools = labels.half_sums @ features  # [2 K, C]
    counts = segment_counts(labels.cloud, n_clouds).tolist()
    total = features.sum() * 0
    for own in pools.view(-1, 2, features.shape[1]).split(counts):
        if len(own) > 1:
            total = total + aggregated_contrast(own[:, 0], own[:, 1], temperature)
    return total / n_clouds


def aggregated_contrast(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Symmetric cross entropy of the cosine similarities of a and b [K, C], with the diagonal as truth."""
    logits = F.normalize(a.float(), dim=1) @ F.normalize(b.float(), dim=1).T / temperature
    truth = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2
