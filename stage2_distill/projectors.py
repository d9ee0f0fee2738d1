"""Projectors: from the shared latent of a Gaussian to one teacher's feature."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from chorus_common.runtime.errors import ConfigError

#: Where the LayerNorm stands: on the hidden layer (ours), or before the MLP (the released Chorus). "identity" is no
#: projector: the latent itself is the prediction (SceneSplat, whose decoder ends as wide as its teacher).
ProjectorLayout = Literal["norm_hidden", "norm_input", "identity"]


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


class IdentityProjector(nn.Module):
    """No projector: the latent is what is compared with the teacher. ConfigError where their widths differ."""

    def __init__(self, width: int, hidden: int, channels: int) -> None:
        super().__init__()
        if width != channels:
            raise ConfigError(
                f'projector_layout = "identity" needs a latent as wide as the teacher, not {width} and {channels} '
                "channels; set encoder.overrides.dec_channels"
            )
        self.width, self.channels = width, channels

    def forward(self, latent: Tensor) -> Tensor:
        return latent


_LAYOUTS = {"norm_hidden": Projector, "norm_input": NormInputProjector, "identity": IdentityProjector}


def make_projector(layout: ProjectorLayout, width: int, hidden: int, channels: int) -> nn.Module:
    """A freshly initialised projector [N, width] -> [N, channels]."""
    return _LAYOUTS[layout](width, hidden, channels)
