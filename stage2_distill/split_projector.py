"""The released Chorus's projector without the wide latent: its first linear layer level by level.

Its input is a LayerNorm over levels put side by side, of which coarse ones repeat in all voxels of their cells. With W
the first layer's weight times the LayerNorm's, each row less its mean, and W_l its columns of level l:

    W (x - mean(x)) / std(x) = (sum over l of W_l x_l) / std(x)

so that the product of every coarse row is taken once and handed to its voxels, and the deviation is put together from
the levels' means and sums of squares. It is the projector's output up to rounding. With the levels of a real splat
(719, 611, 347, 114 and 33 thousand voxels) the first layer takes a quarter of its products, both layers 0.61.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage2_distill.encoder.latent import LatentBlock
from stage2_distill.encoder.products import ROUNDED_ROWS, rounds_rows
from stage2_distill.projectors import NormInputProjector

#: Voxels at a time: the hidden layer (4928 channels: 10 MB on a CPU) then stays in its cache.
CPU_VOXELS, DEVICE_VOXELS = 512, 1 << 13


class SplitProjector:
    """`projector` for blocks of a latent, on the device where its weights are; inference only."""

    def __init__(self, projector: NormInputProjector) -> None:
        first, self.activation, self.last = projector.mlp_head
        assert isinstance(first, nn.Linear), "the layout of NormInputProjector"
        norm = projector.input_norm
        with torch.no_grad():
            weight = first.weight.double() * norm.weight.double()
            self._weight = (weight - weight.mean(dim=1, keepdim=True)).to(first.weight)  # [hidden, width]
            self._bias = (first.bias.double() + first.weight.double() @ norm.bias.double()).to(first.weight)
        self._eps = norm.eps
        self._parts: dict[tuple[int, ...], tuple[Tensor, ...]] = {}

    @torch.no_grad()
    def __call__(self, block: LatentBlock) -> Tensor:
        """[n, channels] of the block's voxels."""
        return block.of_voxels(self.last(self.hidden(block)))

    @torch.no_grad()
    def hidden(self, block: LatentBlock) -> Tensor:
        """Hidden layer [n_0, hidden] f32, after its activation, of the rows of the block's finest level.

        It is summed in fp32 whatever the precision: its products are narrow, and take a fifth of the last layer's.
        """
        with torch.autocast(block.feats[0].device.type, enabled=False):
            return self._hidden(block)

    def _hidden(self, block: LatentBlock) -> Tensor:
        weights = self._of_levels(block.feats)
        scale = self._inverse_std(block)
        total = _product(block.feats[-1], weights[-1])
        for feat, weight, parent in zip(block.feats[-2:0:-1], weights[-2:0:-1], block.parents[:0:-1]):
            total = _product(feat, weight).add_(total.index_select(0, parent))
        if block.parents:
            carried = total.index_select(0, block.parents[0]).mul_(scale)
            total = _product(block.feats[0] * scale, weights[0], self._bias).add_(carried)
        else:
            total = total.mul_(scale).add_(self._bias)
        return torch.ops.aten.gelu_(total) if isinstance(self.activation, nn.GELU) else self.activation(total)

    def _of_levels(self, feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The first layer's columns of each level."""
        widths = tuple(feat.shape[1] for feat in feats)
        if widths not in self._parts:
            self._parts[widths] = tuple(part.contiguous() for part in self._weight.split(widths, dim=1))
        return self._parts[widths]

    def _inverse_std(self, block: LatentBlock) -> Tensor:
        """[n_0, 1]: one over the deviation of every row's levels side by side (Chan et al. 1979, on how sums of squares
        of parts add up).
        """
        coarse = block.feats[-1]
        count = coarse.shape[1]
        mean = coarse.mean(dim=1, keepdim=True)
        squares = (coarse - mean).square().sum(dim=1, keepdim=True)
        for feat, parent in zip(block.feats[-2::-1], block.parents[::-1]):
            width = feat.shape[1]
            own = feat.mean(dim=1, keepdim=True)
            apart = own - mean[parent]
            squares = (feat - own).square().sum(dim=1, keepdim=True) + squares[parent]
            squares += apart.square() * (width * count / (width + count))
            mean = mean[parent] + apart * (width / (width + count))
            count += width
        return torch.rsqrt(squares / count + self._eps)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [n, in] times weight [out, in]; over a rounded number of rows where the library compiles a kernel for each."""
    n = len(x)
    short = -n % min(ROUNDED_ROWS, 32) if rounds_rows() else 0
    if not short:
        return F.linear(x, weight, bias)
    return F.linear(F.pad(x, (0, 0, 0, short)), weight, bias)[:n]


def voxels_at_once(device: torch.device) -> int:
    """Size of the blocks that a projector is given on `device`."""
    return CPU_VOXELS if device.type == "cpu" else DEVICE_VOXELS
