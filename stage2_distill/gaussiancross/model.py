"""The pretraining model: encoder, dense network, Gaussian head, a projector per teacher. Only the encoder is kept."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stage2_distill.encoder import Encoder, PointBatch
from stage2_distill.gaussiancross.head import DenseNeck, GaussianHead, scatter_to_grid
from stage2_distill.gaussiancross.rendering import Splats, prune
from stage2_distill.gaussiancross.settings import HeadSettings
from stage2_distill.projectors import Projector


class GaussianCross(nn.Module):
    """Points -> voxel features -> dense grid -> Gaussians.

    Args:
        teachers: {name: channels}; rendered features go through a projector to each.
    """

    def __init__(self, encoder: Encoder, settings: HeadSettings, teachers: Mapping[str, int], hidden: int) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = encoder
        self.reduce = nn.Linear(encoder.out_channels, settings.width)
        self.neck = DenseNeck(settings.width + 1, settings.width, settings.blocks)
        self.head = GaussianHead(settings)
        self.names = tuple(sorted(teachers))
        self.projectors = nn.ModuleList(Projector(settings.features, hidden, teachers[n]) for n in self.names)

    def forward(self, points: PointBatch, cells: Tensor) -> list[Splats]:
        """Pruned Gaussians of every cloud in its cuboid; cells [N] i64 are the points' cells, cloud * cells + cell."""
        features = self.reduce(self.encoder(points))
        grid = scatter_to_grid(features, cells, len(points.offset), self.settings.grid)
        splats = self.head(self.neck(grid))
        return [prune(s, self.settings.min_opacity, self.settings.max_gaussians) for s in splats]

    def project(self, name: str, features: Tensor) -> Tensor:
        """Rendered features [M, F] in the standardised space of teacher `name`, [M, C]."""
        return self.projectors[self.names.index(name)](features)

    def encoder_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The encoder's part of this model's `tensors`, with the keys of a student's folder ("encoder.*")."""
        return {k: v for k, v in tensors.items() if k.startswith("encoder.")}

    @torch.no_grad()
    def buffers_copy(self) -> list[Tensor]:
        """Running statistics, to be put back where a step is skipped."""
        return [b.clone() for b in self.encoder.buffers()]
