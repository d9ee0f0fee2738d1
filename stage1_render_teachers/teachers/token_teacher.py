"""A dense teacher made of any patch network: picture -> grid x patch pixels -> one vector per cell.

The network sees each picture at exactly (rows x patch, cols x patch) pixels, so its tokens are the grid's cells and no
half-token offset can arise. The picture is padded to whole cells first (edge values): both axes are then scaled by the
same patch / cell and nothing is stretched, whatever the aspect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chorus_common.lifting import CellGrid
from chorus_common.runtime.devices import Precision, autocast
from stage1_render_teachers.teachers.batching import HalvingBatches
from stage1_render_teachers.teachers.protocol import F32, U8, fingerprint_of

VERSION = 1

#: Pictures per forward pass to start with.
BATCH = 16


@dataclass(frozen=True)
class PatchNetwork:
    """What `TokenTeacher` must know of a network.

    Attributes:
        module: frozen, in eval mode; moved to the teacher's device.
        tokens: normalised pictures [B, 3, rows * patch, cols * patch] -> [B, rows, cols, C].
        patch: pixels per token.
        channels: C.
        mean, std: of RGB in [0, 1].
        unit: whether vectors are scaled to length one.
    """

    module: nn.Module
    tokens: Callable[[Tensor], Tensor]
    patch: int
    channels: int
    mean: Sequence[float]
    std: Sequence[float]
    unit: bool


@dataclass
class TokenTeacher:
    """See the module's docstring and `protocol.DenseTeacher`."""

    spec: str
    weights: str
    network: PatchNetwork
    device: torch.device
    precision: Precision
    text_aligned: bool
    channels: int = field(init=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        network = self.network
        self.channels = network.channels
        # The weights come first and by themselves: a text side knows its picture side by them (TextEncoder.pair).
        self.fingerprint = self.weights + fingerprint_of(
            VERSION, network.patch, tuple(network.mean), tuple(network.std), network.unit, self.precision,
            self.text_aligned,
        )[:8]  # fmt: skip
        network.module.to(self.device)
        self._batches = HalvingBatches(BATCH, self.spec)

    def features(self, images: U8, grid: CellGrid) -> F32:
        """Features [B, rows, cols, channels] f32 of pictures [B, H, W, 3] u8."""
        if not len(images):
            return np.zeros((0, grid.rows, grid.cols, self.channels), dtype=np.float32)
        return np.concatenate(self._batches.run(lambda part: self._forward(part, grid), images))

    @torch.inference_mode()
    def _forward(self, images: U8, grid: CellGrid) -> F32:
        network = self.network
        size = (grid.rows * network.patch, grid.cols * network.patch)
        x = normalise(fit_to_grid(images, grid, size, self.device), network.mean, network.std)
        with autocast(self.device, self.precision):
            tokens = network.tokens(x)
        tokens = tokens.float()
        if network.unit:
            tokens = F.normalize(tokens, dim=-1)
        return np.ascontiguousarray(tokens.cpu().numpy())


def fit_to_grid(images: U8, grid: CellGrid, size: tuple[int, int], device: torch.device) -> Tensor:
    """Pictures [B, H, W, 3] u8 -> [B, 3, *size] f32 in [0, 1], the grid's cells becoming equal blocks of pixels.

    Bicubic with antialiasing, as the networks' own transforms; identity where a cell has as many pixels as a patch.
    """
    x = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 255  # [B, 3, H, W]
    right, bottom = grid.cols * grid.cell - x.shape[-1], grid.rows * grid.cell - x.shape[-2]
    if right or bottom:
        x = F.pad(x, (0, right, 0, bottom), mode="replicate")
    if x.shape[-2:] != size:
        x = F.interpolate(x, size=size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
    return x


def normalise(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std per channel of [B, 3, H, W]."""
    return (x - x.new_tensor(mean).view(3, 1, 1)) / x.new_tensor(std).view(3, 1, 1)
