"""Scores of a projector's output with texts, without the output: its last linear layer is folded into the texts.

(W2 h + b2) . t = h . (W2^T t) + b2 . t, exact up to rounding. The scores are not divided by the output's length: that
does not matter to which text scores highest, and an exact length costs as much as the output itself (W2 has full rank).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stage2_distill.projectors import NormInputProjector


class FoldedProjector(nn.Module):
    """Latent [N, width] -> dot products [N, K] of the projector's output (before normalisation) with texts [K, C]."""

    def __init__(self, projector: NormInputProjector, texts: Tensor) -> None:
        super().__init__()
        first, activation, last = projector.mlp_head
        assert isinstance(last, nn.Linear), "the layout of NormInputProjector"
        with torch.no_grad():
            self.weight = (texts.to(last.weight) @ last.weight).contiguous()  # [K, hidden]
            self.bias = texts.to(last.weight) @ last.bias  # [K]
        self.hidden = nn.Sequential(projector.input_norm, first, activation)

    def forward(self, latent: Tensor) -> Tensor:
        return nn.functional.linear(self.hidden(latent), self.weight, self.bias)
