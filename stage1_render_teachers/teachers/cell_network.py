"""The small convolutional network of the embedded teachers: pixels to one unit vector per cell.

Their weights are made on synthetic rooms that no demo, test or study uses
(data_manifests/synthetic/teacher_pictures.py). They see pixels only: no depth, no labels, no scene.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from chorus_common.lifting import CellGrid
from chorus_common.runtime.errors import WeightsError

#: Pixels per output token. A teacher sees each picture resized to grid x PATCH, so its tokens are the grid's cells.
PATCH = 8

#: Length of a cell's vector.
CHANNELS = 64


class ConvBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a residual (He et al. 2016, basic block).

    Depthwise blocks of the same size took longer per picture on a CPU and learned less per step.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class CellNetwork(nn.Module):
    """U-Net down to stride 32 and back to 8 (PATCH): [B, 3, H, W] in [0, 1] -> unit vectors [B, C, H/8, W/8].

    Strides 4, 8, 16, 32; the three deeper ones are summed at stride 8. Channels-last memory halves the time on a CPU.
    """

    def __init__(
        self,
        channels: int = CHANNELS,
        widths: tuple[int, ...] = (24, 40, 80, 104),
        depths: tuple[int, ...] = (0, 1, 2, 2),
    ) -> None:
        super().__init__()
        stages, previous = [], 3
        for level, (width, depth) in enumerate(zip(widths, depths)):
            kernel, stride = (7, 4) if level == 0 else (3, 2)
            down = nn.Conv2d(previous, width, kernel, stride=stride, padding=kernel // 2, bias=False)
            blocks = [ConvBlock(width) for _ in range(depth)]
            stages.append(nn.Sequential(down, nn.BatchNorm2d(width), nn.ReLU(), *blocks))
            previous = width
        self.stages = nn.ModuleList(stages)
        self.lateral = nn.ModuleList([nn.Conv2d(width, widths[1], 1) for width in widths[1:]])
        self.merge = ConvBlock(widths[1])
        self.head = nn.Conv2d(widths[1], channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = ((images - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        merged = self.lateral[0](levels[1])
        for lateral, level in zip(list(self.lateral)[1:], levels[2:]):
            merged = merged + F.interpolate(
                lateral(level), size=merged.shape[-2:], mode="bilinear", align_corners=False
            )
        return F.normalize(self.head(self.merge(merged)).float(), dim=1)


def load_network(weights: Path, device: torch.device, script: str) -> CellNetwork:
    """The network with its trained weights (fp16 on disk), frozen, channels-last. script: what makes them."""
    if not weights.is_file():
        raise WeightsError(
            f"{weights}: weights of the embedded teacher are missing; reinstall, "
            f"or make them with python -m stage1_render_teachers.teachers.{script}"
        )
    network = CellNetwork()
    network.load_state_dict({key: value.float() for key, value in load_file(weights).items()})
    return network.eval().to(device).to(memory_format=torch.channels_last)


class CellTeacher:
    """A dense teacher that is a `CellNetwork`; what kind, its class attributes say (teachers/protocol.py)."""

    spec: str
    fingerprint: str
    channels: int
    text_aligned: bool

    def __init__(self, network: CellNetwork) -> None:
        self.network = network

    @torch.inference_mode()
    def features(self, images: NDArray[np.uint8], grid: CellGrid) -> NDArray[np.float32]:
        """Unit vectors [B, rows, cols, channels] f32 of pictures [B, H, W, 3] u8, one per cell of `grid`."""
        device = next(self.network.parameters()).device
        x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255  # [B, 3, H, W]
        size = (grid.rows * PATCH, grid.cols * PATCH)
        if x.shape[-2:] != size:
            x = F.interpolate(pad_to_cells(x, grid), size=size, mode="bilinear", align_corners=False, antialias=True)
        return np.ascontiguousarray(self.network(x).permute(0, 2, 3, 1).cpu().numpy())


def pad_to_cells(images: Tensor, grid: CellGrid) -> Tensor:
    """Pad [B, 3, H, W] at right and bottom (edge values) to whole cells, so that resizing never stretches a cell."""
    right, bottom = grid.cols * grid.cell - images.shape[-1], grid.rows * grid.cell - images.shape[-2]
    return F.pad(images, (0, right, 0, bottom), mode="replicate") if right or bottom else images
