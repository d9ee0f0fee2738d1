"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685): train a thin addition to frozen linear layers.

y = W x + b + (alpha / rank) U D x, with D [rank, in] random and U [out, rank] zero at the start, so that the student
begins as it was. What is saved is the merged student: W + (alpha / rank) U D.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from chorus_common.runtime.errors import ConfigError


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable low-rank addition, which in training sees each of its inputs with
    probability 1 - dropout.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.empty(rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        self.factor = alpha / rank
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + (self.dropout(x) @ self.down.T @ self.up.T) * self.factor


def add_lora(
    model: nn.Module,
    inside: nn.Module,
    rank: int,
    alpha: float,
    *,
    dropout: float = 0.0,
    modules: Collection[str] = (),
) -> int:
    """Freeze `model` and put an adapter on the linear layers in `inside` that are called as `modules` says (all of them
    where it names none); returns how many.

    Running statistics of BatchNorm layers still follow the data: they are no weights. Raises ConfigError where
    `modules` names a layer that is not there.
    """
    linear = {name for m in inside.modules() for name, child in m.named_children() if isinstance(child, nn.Linear)}
    if unknown := sorted(set(modules) - linear):
        raise ConfigError(
            f"lora.modules names '{unknown[0]}'; the encoder's linear layers are {', '.join(sorted(linear))}"
        )
    model.requires_grad_(False)
    found = [
        (parent, name, child)
        for parent in inside.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and (not modules or name in modules)
    ]
    for parent, name, child in found:
        setattr(parent, name, LoraLinear(child, rank, alpha, dropout))
    return len(found)


def merged_tensors(tensors: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    """State of the plain model from that of the adapted one; a state without adapters is returned as it is."""
    out = {}
    for key, value in tensors.items():
        place, _, leaf = key.rpartition(".")
        owner = place.removesuffix(".base")
        if leaf in ("up", "down") and f"{place}.base.weight" in tensors:
            continue
        if place.endswith(".base") and f"{owner}.up" in tensors:
            if leaf == "weight":
                value = value + factor * (tensors[f"{owner}.up"] @ tensors[f"{owner}.down"])
            key = f"{owner}.{leaf}"
        out[key] = value
    return out
