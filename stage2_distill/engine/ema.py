"""Exponential moving average of a model's weights."""

from __future__ import annotations

import torch
from torch import nn

from stage2_distill.engine.sharding import local


class EMA:
    """Exponential moving average of a model's parameters; buffers are copied.

    decay(s) = min(decay, (1 + s) / (10 + s)): a plain average while the run is young.

    Attributes:
        tensors: the averaged state dict, shared out where the model is.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self._parameters = {k for k, _ in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after optimiser step `step` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        old, new = [], []
        for key, value in model.state_dict().items():
            if key in self._parameters and value.is_floating_point():
                old.append(local(self.tensors[key]))
                new.append(local(value.detach()))
            else:
                self.tensors[key].copy_(value)
        torch._foreach_lerp_(old, new, 1 - decay)
