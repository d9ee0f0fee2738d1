"""Projectors: from the shared latent of a Gaussian to one teacher's standardised feature."""

from __future__ import annotations

from torch import Tensor, nn


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
