"""From voxel features to Gaussians: one for every voxel that holds points, and one for every empty cell of a dense grid
over the cuboid.

All attributes are predicted (pipeline figure of GaussianCross), place and colour of a voxel's Gaussian relative to what
was measured there, and none is initialised from distances between points. Voxels speak for themselves, so that what is
matched in the pictures reaches the encoder without a detour; a small dense 3D network carries their features into
masked and empty cells, so that a surface may be put where no input point was; opacity decides what is there.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chorus_common.segments import segment_reduce
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


#: How far from black and white a measured colour is taken to be, so that its logit is finite and can be corrected.
COLOR_MARGIN = 0.02


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
        """[B, channels, X, Y, Z] -> features of all cells, x-major, [B, X * Y * Z, width]."""
        return self.blocks(self.enter(grid)).flatten(2).transpose(1, 2)


class GaussianHead(nn.Module):
    """One Gaussian per row of features, in a box of given size.

    mean = centre + max_offset tanh(.) sizes; scale between min_scale and max_scale sizes along the Gaussian's own axes;
    opacity through a sigmoid; colour through a sigmoid, relative to one that was measured or to grey; quaternion
    relative to the identity; feature as it is.

    Args:
        channels: of the features. opacity_start: opacity of all Gaussians before training.
    """

    def __init__(self, channels: int, settings: HeadSettings, opacity_start: float) -> None:
        super().__init__()
        self.settings = settings
        self.norm = nn.LayerNorm(channels)
        self.linear = nn.Linear(channels, 14 + settings.features)
        nn.init.normal_(self.linear.weight, std=0.05)
        nn.init.zeros_(self.linear.bias)
        with torch.no_grad():
            self.linear.bias[10] = math.log(opacity_start / (1 - opacity_start))

    def forward(self, features: Tensor, centres: Tensor, size: Tensor, colors: Tensor | None = None) -> Splats:
        """Gaussians of features [N, C] in boxes of `size` [3] about `centres` [N, 3], in the cuboid's coordinates; of
        measured `colors` [N, 3].
        """
        s = self.settings
        values = self.linear(self.norm(features))
        offset, quat, scale, opacity, color, feature = values.split([3, 4, 3, 1, 3, s.features], dim=-1)
        means = centres + s.max_offset * size * torch.tanh(offset)
        scales = size * (s.min_scale + (s.max_scale - s.min_scale) * torch.sigmoid(scale))
        identity = quat.new_zeros(4)
        identity[0] = 1.0  # made there: a list would be copied to a device
        quats = quat + identity
        if colors is not None:
            color = color + torch.logit(colors, eps=COLOR_MARGIN)
        return Splats(means, quats, scales, torch.sigmoid(opacity[:, 0]), torch.sigmoid(color), feature)
