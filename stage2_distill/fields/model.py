"""The field itself: a vector per Gaussian and two decoders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from chorus_common.runtime.errors import ConfigError
from stage2_distill.fields.networks import FeatureDecoder, GranularityDecoder
from stage2_distill.fields.settings import AVERAGE, LEARNED, FieldConfig


class GranularityField(nn.Module):
    """GAGS's feature field.

    Attributes:
        vectors: [N, channels] in the cache's row order; zero at first, as published.
        decoder: to the teacher's space. granularity: probabilities of the levels.
        fixed: [K] probabilities where `config.selection` is not "learned".
    """

    fixed: Tensor | None

    def __init__(self, config: FieldConfig, n_gaussians: int, levels: Sequence[str], width: int) -> None:
        """A fresh field with weights from torch's generator. `width`: of the teacher's space. Raises ConfigError."""
        super().__init__()
        self.config, self.levels, self.width = config, tuple(levels), width
        self.vectors = nn.Parameter(torch.zeros(n_gaussians, config.channels))
        self.decoder = FeatureDecoder(config.channels, config.decoder_width, config.decoder_layers, width)
        self.granularity = GranularityDecoder(config.channels, config.granularity_widths, len(levels))
        self.register_buffer("fixed", fixed_probabilities(config.selection, self.levels), persistent=False)

    def probabilities(self, vectors: Tensor) -> Tensor:
        """Weights of the levels [X, K] for vectors [X, channels], which get no gradient from here (as published)."""
        if self.fixed is not None:
            return self.fixed.to(vectors).expand(len(vectors), -1)
        return self.granularity(vectors.detach())

    def decode(self, vectors: Tensor) -> Tensor:
        """Unit features [X, width] of rendered or per-Gaussian vectors [X, channels]."""
        return self.decoder(vectors)


def fixed_probabilities(selection: str, levels: Sequence[str]) -> Tensor | None:
    """Probabilities [K] that a selection other than the learned one stands for; None for the learned one."""
    if selection == LEARNED:
        return None
    if selection == AVERAGE:
        return torch.full((len(levels),), 1 / len(levels))
    if selection not in levels:
        raise ConfigError(f"selection '{selection}': use {LEARNED}, {AVERAGE} or a level ({', '.join(levels)})")
    return torch.tensor([float(level == selection) for level in levels])
