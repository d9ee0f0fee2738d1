"""Tri-attribute distillation: what a rendered view says against what the sensors and the teachers said.

    appearance   mean |C - RGB|                     over pixels whose colour is known
    geometry     mean |D - depth| + (1 - alpha)     over pixels whose depth was measured
    semantics    match(projector(F), teacher)       over the teachers' cells, weighted by the rendered weight

A view without a single measured pixel has no geometry term (it counts as absent, not as zero).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from stage2_distill.gaussiancross.rendering import MIN_WEIGHT, RenderedView
from stage2_distill.losses.distillation import DistillationTerms, distillation_loss

#: rendered weight from which on a cell is matched, and from which on it takes part in the contrast
MATCHED, CONTRASTED = 0.05, 0.5
ATTRIBUTES = ("appearance", "geometry", "semantics", "contrast")


def appearance_loss(rendered: RenderedView, color: Tensor, colored: Tensor) -> Tensor | None:
    """Mean absolute difference of colour [H, W, 3] over the pixels `colored` [P]; None where there is none."""
    if len(colored) == 0:
        return None
    return (rendered.color - color).abs().mean(-1).flatten().index_select(0, colored).mean()


def geometry_loss(rendered: RenderedView, depth: Tensor, measured: Tensor) -> Tensor | None:
    """Mean over the pixels `measured` [Q] of |rendered - depth [H, W]| in metres plus the weight that is missing there.

    The second term makes a surface opaque where one was measured: expected depth alone, a ratio, is as good for a veil.
    """
    if len(measured) == 0:
        return None
    return ((rendered.depth - depth).abs() + (1 - rendered.alpha)).flatten().index_select(0, measured).mean()


def cell_features(rendered: RenderedView, pixels: int) -> tuple[Tensor, Tensor]:
    """Rendered feature [cells, F] = sum w f / sum w per cell of pixels x pixels pixels, and the mean weight [cells]."""
    height, width = rendered.alpha.shape
    rows, columns = height // pixels, width // pixels
    shape = (rows, pixels, columns, pixels)
    alpha = rendered.alpha.reshape(shape)
    total = (rendered.feature * rendered.alpha[..., None]).reshape(*shape, -1).sum((1, 3))  # [rows, columns, F]
    weight = alpha.sum((1, 3))
    feature = total / weight.clamp(min=MIN_WEIGHT)[..., None]
    return feature.flatten(0, 1), (weight / pixels**2).flatten()


def semantics_terms(predicted: Tensor, target: Tensor, weight: Tensor, seen: Tensor) -> DistillationTerms:
    """How far projected features [cells, C] are from a teacher's [cells, C] (standardised) at the cells `seen` [M],
    weighted by [cells].
    """
    predicted, target, weight = (x.index_select(0, seen) for x in (predicted, target, weight.detach()))
    return distillation_loss(predicted, target, weight, cosine_weight=1.0, smooth_l1_weight=1.0)


def contrast_loss(predicted: Tensor, target: Tensor, temperature: float) -> Tensor:
    """InfoNCE of projected features [M, C] against teacher features [M, C] of the same cells; other cells repel.

    Our reading of "cross-modal consistency" in the abstract. Neighbouring cells of one wall are false negatives, which
    is why it is off by default.
    """
    logits = F.normalize(predicted, dim=1) @ F.normalize(target, dim=1).T / temperature
    own = torch.arange(len(logits), device=logits.device)
    return F.cross_entropy(logits, own)


def weighted_total(
    losses: Mapping[str, Tensor], weights: Mapping[str, float], levels: Mapping[str, Tensor] | None
) -> Tensor:
    """Sum of the losses under their weights.

    levels: present values of the losses, for adaptive weights: weights_k L_k / levels_k. Uncertainty weighting
    (Kendall, Gal, Cipolla, CVPR 2018) minimises exp(-s_k) L_k + s_k over s_k, too; its optimum s_k = log L_k leaves
    log L_k, whose gradient this is. Nothing has to be learnt, so it also holds in the first steps of a short run.
    """
    parts = []
    for name, loss in losses.items():
        weight = weights[name]
        if weight > 0:
            parts.append(weight * loss if levels is None else weight * loss / levels[name].clamp(min=1e-6))
    return torch.stack(parts).sum()
