"""From voxel features to Gaussians: a dense 3D network over the cuboid, and a head that makes one Gaussian per cell.

All attributes are predicted, none is initialised from distances between points (pipeline figure of GaussianCross). The
dense network carries features from visible cells into masked and empty ones, so a surface may be put where no input
point was; opacity decides what is there.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chorus_common.segments import segment_reduce
from stage2_distill.gaussiancross.cuboid import cell_centres
from stage2_distill.gaussiancross.rendering import Splats
from stage2_distill.gaussiancross.settings import HeadSettings


def scatter_to_grid(features: Tensor, cells: Tensor, scenes: int, shape: tuple[int, int, int]) -> Tensor:
    """Mean of voxel features [N, C] per cell and whether a cell has any: [B, C + 1, X, Y, Z].

    Args: cells [N] i64: scene * X * Y * Z + cell.
    """
    count = shape[0] * shape[1] * shape[2] * scenes
    mean = segment_reduce(features, cells, count, "mean")
    filled = torch.zeros(count, 1, dtype=mean.dtype, device=mean.device)
    filled[cells] = 1
    grid = torch.cat([mean, filled], dim=1).view(scenes, *shape, -1)  # [B, X, Y, Z, C + 1]
    return grid.permute(0, 4, 1, 2, 3)


class _Block(nn.Module):
    """x + Conv3d(GELU(norm(x))), 3 x 3 x 3."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4 if width % 4 == 0 else 1, width)
        self.conv = nn.Conv3d(width, width, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.gelu(self.norm(x)))


class DenseNeck(nn.Module):
    """Residual blocks on the grid; dilations 1, 2, 1, 2, ... so that few blocks reach across a masked block."""

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.enter = nn.Conv3d(channels, width, 1)
        self.blocks = nn.Sequential(*(_Block(width, 1 + i % 2) for i in range(blocks)))

    def forward(self, grid: Tensor) -> Tensor:
        return self.blocks(self.enter(grid))


class GaussianHead(nn.Module):
    """One Gaussian per cell of the grid, in the cuboid's coordinates.

    mean = cell centre + max_offset tanh(.) cells; scale between min_scale and max_scale cells along the Gaussian's own
    axes; opacity and colour through a sigmoid; quaternion relative to the identity; feature as it is.
    """

    centres: Tensor
    cell: Tensor

    def __init__(self, settings: HeadSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("centres", torch.from_numpy(cell_centres(settings.grid)).float(), persistent=False)
        self.register_buffer("cell", 1 / torch.tensor(settings.grid, dtype=torch.float32), persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(settings.width, settings.width), nn.GELU(), nn.Linear(settings.width, 14 + settings.features)
        )
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=0.02)
        nn.init.zeros_(last.bias)
        with torch.no_grad():
            last.bias[10] = math.log(settings.opacity_start / (1 - settings.opacity_start))

    def forward(self, grid: Tensor) -> list[Splats]:
        """Gaussians of every scene from the network's output [B, C, X, Y, Z]."""
        s = self.settings
        values = self.layers(grid.flatten(2).transpose(1, 2))  # [B, X * Y * Z, 14 + F]
        offset, quat, scale, opacity, color, feature = values.split([3, 4, 3, 1, 3, s.features], dim=-1)
        means = self.centres + s.max_offset * self.cell * torch.tanh(offset)
        scales = self.cell * (s.min_scale + (s.max_scale - s.min_scale) * torch.sigmoid(scale))
        quats = quat + quat.new_tensor([1.0, 0.0, 0.0, 0.0])
        opacities, colors = torch.sigmoid(opacity[..., 0]), torch.sigmoid(color)
        parts = (means, quats, scales, opacities, colors, feature)
        return [Splats(*(part[b] for part in parts)) for b in range(len(grid))]
