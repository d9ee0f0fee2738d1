"""The two MLPs of a field (GAGS, models/networks.py: stacks of 1x1 convolutions, which are MLPs per pixel).

Being MLPs per pixel they serve a Gaussian's own vector as well as a rendered one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FeatureDecoder(nn.Module):
    """[..., channels] -> unit vectors [..., out]: the compression of the teacher's space, learned with the field.

    `layers` linear layers of `width`, ReLU between them; two sums over three layers each in the published depth of
    nine. Where the sums sit is our reading.
    """

    def __init__(self, channels: int, width: int, layers: int, out: int) -> None:
        super().__init__()
        hidden = layers - 2
        self.inner = nn.Linear(channels, width)
        self.blocks = nn.ModuleList(_relu_stack(width, 3) for _ in range(hidden // 3))
        self.tail = _relu_stack(width, hidden % 3)
        self.outer = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        """Unit rows [..., out]."""
        x = F.relu(self.inner(x))
        for block in self.blocks:
            x = x + block(x)
        return F.normalize(self.outer(self.tail(x)), dim=-1)


class GranularityDecoder(nn.Module):
    """[..., channels] -> probabilities [..., levels] of the granularities."""

    def __init__(self, channels: int, widths: Sequence[int], levels: int) -> None:
        super().__init__()
        sizes = [channels, *widths, levels]
        parts: list[nn.Module] = []
        for a, b in pairwise(sizes):
            parts += [nn.Linear(a, b), nn.ReLU()]
        self.layers = nn.Sequential(*parts[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Softmax over the last axis."""
        return torch.softmax(self.layers(x), dim=-1)


def _relu_stack(width: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*[layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())])
