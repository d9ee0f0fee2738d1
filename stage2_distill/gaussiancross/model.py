"""The pretraining model: encoder, dense network, Gaussian head, a projector per teacher. Only the encoder is kept."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stage2_distill.encoder import Encoder, PointBatch
from stage2_distill.gaussiancross.cuboid import cell_centres
from stage2_distill.gaussiancross.head import DenseNeck, GaussianHead, scatter_to_grid
from stage2_distill.gaussiancross.rendering import Splats, prune
from stage2_distill.gaussiancross.settings import HeadSettings
from stage2_distill.gaussiancross.voxels import MeasuredVoxels
from stage2_distill.projectors import Projector


class GaussianCross(nn.Module):
    """Points -> voxel features -> a Gaussian per voxel, and through a dense grid one per cell without voxels.

    Args:
        teachers: {name: channels}; rendered features go through a projector to each.
    """

    centres: Tensor
    cell: Tensor

    def __init__(self, encoder: Encoder, settings: HeadSettings, teachers: Mapping[str, int], hidden: int) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = encoder
        self.voxel_head = GaussianHead(encoder.out_channels, settings, settings.voxel_opacity_start)
        self.reduce = nn.Linear(encoder.out_channels, settings.width)
        self.neck = DenseNeck(settings.width + 1, settings.width, settings.blocks)
        self.cell_head = GaussianHead(settings.width, settings, settings.opacity_start)
        self.register_buffer("centres", torch.from_numpy(cell_centres(settings.grid)).float(), persistent=False)
        self.register_buffer("cell", 1 / torch.tensor(settings.grid, dtype=torch.float32), persistent=False)
        self.names = tuple(sorted(teachers))
        self.projectors = nn.ModuleList(Projector(settings.features, hidden, teachers[n]) for n in self.names)

    def forward(self, points: PointBatch, voxels: MeasuredVoxels) -> list[Splats]:
        """Pruned Gaussians of every cloud in its cuboid."""
        s, clouds = self.settings, len(points.offset)
        features = self.encoder(points)
        grid = scatter_to_grid(self.reduce(features), voxels.cells, clouds, s.grid)
        dense = self.neck(grid)
        splats, start = [], 0
        for b, end in enumerate(points.layout.ends):
            measured = self.voxel_head(
                features[start:end], voxels.centres[start:end], voxels.size[b], voxels.colors[start:end]
            )
            empty = voxels.empty[b]
            guessed = self.cell_head(dense[b].index_select(0, empty), self.centres.index_select(0, empty), self.cell)
            splats.append(measured.concatenate(guessed))
            start = end
        return prune(splats, s.min_opacity, s.max_gaussians)

    def project(self, name: str, features: Tensor) -> Tensor:
        """Rendered features [M, F] in the standardised space of teacher `name`, [M, C]."""
        return self.projectors[self.names.index(name)](features)

    def encoder_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The encoder's part of this model's `tensors`, with the keys of a student's folder ("encoder.*")."""
        return {k: v for k, v in tensors.items() if k.startswith("encoder.")}
