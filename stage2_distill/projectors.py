"""Projectors: from the shared latent of a Gaussian to one teacher's feature."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

#: Where the LayerNorm stands: on the hidden layer (ours), or before the MLP (the released Chorus).
ProjectorLayout = Literal["norm_hidden", "norm_input"]


class Projector(nn.Sequential):
    """Two-layer MLP with LayerNorm and GELU between (Chorus, arXiv 2512.17817; the same shape as RADIO's
    adaptor_mlp.py).

    [N, width] -> Linear -> LayerNorm -> GELU -> Linear -> [N, channels].
    """

    def __init__(self, width: int, hidden: int, channels: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, channels))
        self.width, self.hidden, self.channels = width, hidden, channels

    def forward(self, latent: Tensor) -> Tensor:
        return super().forward(latent)


class NormInputProjector(nn.Module):
    """The released Chorus's projector: LayerNorm on the latent, two-layer MLP with GELU and no norm inside.

    [N, width] -> LayerNorm -> Linear -> GELU -> Linear -> [N, channels]; keys input_norm.*, mlp_head.{0,2}.*.
    """

    def __init__(self, width: int, hidden: int, channels: int) -> None:
        super().__init__()
        self.width, self.hidden, self.channels = width, hidden, channels
        self.input_norm = nn.LayerNorm(width)
        self.mlp_head = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def forward(self, latent: Tensor) -> Tensor:
        return self.mlp_head(self.input_norm(latent))


def make_projector(layout: ProjectorLayout, width: int, hidden: int, channels: int) -> Projector | NormInputProjector:
    """A freshly initialised projector [N, width] -> [N, channels]."""
    kind = Projector if layout == "norm_hidden" else NormInputProjector
    return kind(width, hidden, channels)
