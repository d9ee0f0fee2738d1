"""Scores of a projector's output with texts, without the output: its last linear layer is folded into the texts.

(W2 h + b2) . t = h . (W2^T t) + b2 . t, exact up to rounding. The scores are not divided by the output's length: that
does not matter to which text scores highest, and an exact length costs as much as the output itself (W2 has full rank;
|W2 h|^2 by W2^T W2 costs four times that).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage2_distill.encoder.latent import LatentBlock
from stage2_distill.split_projector import SplitProjector


class FoldedProjector:
    """Blocks of a latent -> dot products [n, K] of the projector's output (before normalisation) with texts [K, C]."""

    def __init__(self, projector: SplitProjector, texts: Tensor) -> None:
        last = projector.last
        assert isinstance(last, nn.Linear), "the layout of NormInputProjector"
        with torch.no_grad():
            texts = texts.to(last.weight)
            self._weight = (texts @ last.weight).contiguous()  # [K, hidden]
            self._bias = texts @ last.bias  # [K]
        self._projector = projector

    @torch.no_grad()
    def __call__(self, block: LatentBlock) -> Tensor:
        return block.of_voxels(F.linear(self._projector.hidden(block), self._weight, self._bias))
