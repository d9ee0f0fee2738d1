"""Label-free contrast: pixels of one mask attract each other, pixels of other masks of the same view repel.

A pixel's embedding is what the student's features look like in that cell, through the cached lifting matrix; nothing is
rasterised. Mask ids mean something within one view and one level alone, so nothing is ever compared across views.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from chorus_common.segments import segment_counts
from stage2_distill.data.batch import MaskGroups


def mask_contrast(features: Tensor, masks: MaskGroups, n_clouds: int, temperature: float) -> Tensor:
    """Mean over the batch's clouds of the mean over a cloud's views of `info_nce` among that view's pixels.

    Args:
        features: [N, C] one teacher's predictions for the batch's voxels.
        n_clouds: clouds of the batch; those without masks count as zero.
    """
    pixels = masks.pixels @ features  # [P, C]
    # one transfer from a device: pixels of every view, and views of its cloud
    views = segment_counts(masks.cloud, n_clouds)[masks.cloud]
    counts, views_of_cloud = torch.stack([segment_counts(masks.context, len(masks.cloud)), views]).tolist()
    total = features.sum() * 0
    for own, group, n_views in zip(pixels.split(counts), masks.group.split(counts), views_of_cloud):
        total = total + info_nce(own, group, temperature) / n_views
    return total / n_clouds


def info_nce(embeddings: Tensor, group: Tensor, temperature: float) -> Tensor:
    """InfoNCE with several positives (Khosla et al. 2020, eq. 2, L_out) over the cosine similarities of rows.

    mean over anchors i of  -1/|P(i)| sum over p in P(i) of log( exp(s_ip / T) / sum over a != i of exp(s_ia / T) ),
    P(i) = the other rows of i's group; rows that are alone in their group are no anchors, but negatives of the others.

    Args:
        embeddings: [S, C]; normalised here. group: [S].
    """
    z = F.normalize(embeddings.float(), dim=1)
    alone = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(alone, float("-inf"))
    log_share = (logits - logits.logsumexp(dim=1, keepdim=True)).masked_fill(alone, 0)
    positive = (group[:, None] == group[None]) & ~alone
    count = positive.sum(1)
    anchors = count > 0
    if not anchors.any():
        return embeddings.sum() * 0
    return -((log_share * positive).sum(1)[anchors] / count[anchors]).mean()
