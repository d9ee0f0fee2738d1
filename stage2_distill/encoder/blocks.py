"""Blocks of the trunk: convolution, patch attention, MLP, with residuals; and the stem. Attribute names give
upstream's state-dict keys.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage2_distill.encoder.attention import SerializedAttention
from stage2_distill.encoder.hierarchy import Level
from stage2_distill.encoder.pooling import NormFactory
from stage2_distill.encoder.rope import RotaryFrequencies, rope_angles
from stage2_distill.encoder.sparse_conv import CPU_TILE, DEVICE_TILE, SubMConv3d

#: what a voxel of a surface has of its 27 neighbours, itself included (rooms at 0.08 to 0.15 m: 10 to 14)
SURFACE_NEIGHBOURS = 12


def batch_norm(channels: int, momentum: float = 0.01) -> nn.Module:
    """BatchNorm1d as in PTv3: eps 1e-3, momentum 0.01."""
    return nn.BatchNorm1d(channels, eps=1e-3, momentum=momentum)


#: deviations at which standardised inputs are cut off: a channel that is nearly always zero has rare, huge values
INPUT_RANGE = 5.0


class DropPath(nn.Module):
    """Drop the residual of single rows with probability `rate`, scaling the others by 1 / (1 - rate) (timm's
    DropPath on [N, C]).

    `purpose` names its draws: no two of an encoder have the same (`Level.uniform`).
    """

    def __init__(self, rate: float, purpose: int) -> None:
        super().__init__()
        self.rate, self.purpose = rate, purpose

    def forward(self, x: Tensor, level: Level) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = level.uniform(self.purpose) >= self.rate
        return x * (keep / (1 - self.rate)).to(x.dtype)[:, None]


class LayerScale(nn.Module):
    """Per-channel learned scale of a residual; key `gamma`."""

    def __init__(self, channels: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class MLP(nn.Module):
    """Linear, exact GELU, Linear; keys fc1, fc2."""

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        hidden = int(channels * ratio)
        self.fc1 = nn.Linear(channels, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class ConvUnit(nn.ModuleList):
    """x + norm(linear(conv(source))): submanifold convolution k = 3, Linear, LayerNorm; keys 0, 1, 2. The source is x,
    or the skip branch in m1's decoders.
    """

    def __init__(self, channels: int) -> None:
        super().__init__([SubMConv3d(channels, channels, 3), nn.Linear(channels, channels), nn.LayerNorm(channels)])

    def forward(self, x: Tensor, level: Level, source: Tensor) -> Tensor:
        return x + self[2](self[1](self[0](source, level.neighbours(3))))

    def infer(self, x: Tensor, level: Level, source: Tensor) -> Tensor:
        """The same, tile by tile, without gradients."""
        conv = self[0]
        assert isinstance(conv, SubMConv3d)
        out = torch.empty_like(x)
        for span, values in conv.tiles(source, level.neighbours(3)):
            out[span] = x[span] + self[2](self[1](values))
        return out


class BasicUnit(nn.ModuleList):
    """The residual block of He et al. 2016 on sparse voxels, MinkUNet's BasicBlock: act(x + norm(conv(act(norm(
    conv(source)))))), k = 3. Keys 0 to 3.

    Two changes: the last norm starts at zero, so that a block starts as the identity; and kernels are scaled to a
    dozen neighbours, which a voxel of a surface has, rather than to all 27.
    """

    def __init__(self, channels: int, norm: NormFactory) -> None:
        first, second = (SubMConv3d(channels, channels, 3, bias=False) for _ in range(2))
        super().__init__([first, norm(channels), second, norm(channels)])
        for conv in (first, second):
            nn.init.normal_(conv.weight, std=(2 / (SURFACE_NEIGHBOURS * channels)) ** 0.5)
        last = self[3]
        assert isinstance(last.weight, Tensor)
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor, level: Level, source: Tensor) -> Tensor:
        table = level.neighbours(3)
        return F.gelu(x + self[3](self[2](F.gelu(self[1](self[0](source, table))), table)))

    def infer(self, x: Tensor, level: Level, source: Tensor) -> Tensor:
        """The same, tile by tile, without gradients."""
        first, second = self[0], self[2]
        assert isinstance(first, SubMConv3d)
        assert isinstance(second, SubMConv3d)
        hidden, out = torch.empty_like(x), torch.empty_like(x)
        for span, values in first.tiles(source, level.neighbours(3)):
            hidden[span] = F.gelu(self[1](values))
        for span, values in second.tiles(hidden, level.neighbours(3)):
            out[span] = F.gelu(x[span] + self[3](values))
        return out


class Block(nn.Module):
    """One block at one level; [N, C] -> [N, C].

    "ptv3" (point_transformer_v3m1_base.py:251-338): x += cpe(x); x += attn(LN(x)); x += mlp(LN(x)).
    "litept" (LitePT model.py:600-690): conv blocks are x += conv(x) and nothing more; attention blocks without
    convolution start with x = LN(x), without a residual.
    "basic": as "litept", with the convolutions of `BasicUnit`.

    `index` is its place in its stage, which says along which curve it attends; `number` its place in the encoder.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        patch_size: int,
        index: int,
        *,
        number: int = 0,
        conv: bool,
        attn: bool,
        style: str,
        mlp_ratio: float,
        qkv_bias: bool,
        drop_path: float,
        layer_scale: float | None,
        rope_base: float | None,
        rope_position: str = "grid",
        norm: NormFactory,
    ) -> None:
        super().__init__()
        self.patch_size, self.index, self.rope_base, self.num_heads = patch_size, index, rope_base, num_heads
        self.conv_name = ("cpe" if style == "ptv3" else "conv") if conv else None
        if self.conv_name is not None:
            self.add_module(self.conv_name, BasicUnit(channels, norm) if style == "basic" else ConvUnit(channels))
        elif style != "ptv3":
            self.norm0 = nn.Sequential(nn.LayerNorm(channels))
        self.attends = attn
        if attn:
            self.norm1 = nn.Sequential(nn.LayerNorm(channels))
            if layer_scale is not None:
                self.ls1 = nn.Sequential(LayerScale(channels, layer_scale))
            by_coord = rope_base is not None and rope_position == "coord"
            rope = RotaryFrequencies(channels // num_heads, rope_base) if by_coord and rope_base is not None else None
            self.attn = SerializedAttention(channels, num_heads, qkv_bias, rope)
            self.norm2 = nn.Sequential(nn.LayerNorm(channels))
            if layer_scale is not None:
                self.ls2 = nn.Sequential(LayerScale(channels, layer_scale))
            self.mlp = nn.Sequential(MLP(channels, mlp_ratio))
            self.drop_path1, self.drop_path2 = (DropPath(drop_path, 2 * number + k) for k in range(2))

    def forward(self, x: Tensor, level: Level, conv_input: Tensor | None = None) -> Tensor:
        """`conv_input`: what the convolution reads in place of x (m1 decoders, where it sees the skip branch only).

        Without gradients the same arithmetic runs tile by tile, so that the wide intermediates (qkv, MLP) exist for
        a tile of rows only.
        """
        if not torch.is_grad_enabled() and not self.training:
            return self._infer(x, level, conv_input)
        if self.conv_name is not None:
            x = self.get_submodule(self.conv_name)(x, level, x if conv_input is None else conv_input)
        elif hasattr(self, "norm0"):
            x = self.norm0(x)
        if not self.attends:
            return x
        angles = self._angles(level, x.shape[1])
        y = self.attn(self.norm1(x), level.patches(self.index, self.patch_size), angles)
        x = x + self.drop_path1(self.ls1(y) if hasattr(self, "ls1") else y, level)
        y = self.mlp(self.norm2(x))
        return x + self.drop_path2(self.ls2(y) if hasattr(self, "ls2") else y, level)

    def _infer(self, x: Tensor, level: Level, conv_input: Tensor | None) -> Tensor:
        x = self.before_attention(x, level, conv_input)
        if not self.attends:
            return x
        tile = CPU_TILE if x.device.type == "cpu" else DEVICE_TILE
        angles = self._angles(level, x.shape[1])
        out = torch.empty_like(x)
        for rows, values in self.attn.tiles(
            x, self.norm1, level.patches(self.index, self.patch_size), angles, 2 * tile
        ):
            out[rows] = (self.ls1(values) if hasattr(self, "ls1") else values).to(x.dtype)
        for start in range(0, len(x), tile):
            out[start : start + tile] = self.after_attention(x[start : start + tile] + out[start : start + tile])
        return out

    def _angles(self, level: Level, channels: int) -> Tensor | None:
        """Rotary angles [N, 3, D/2] of a level, or None without rotary encoding."""
        if self.rope_base is None:
            return None
        if self.attn.rope is not None:
            return level.coord_angles(self.attn.rope)
        return level.angles(channels // self.num_heads, self.rope_base)

    # The three parts of `_infer` for rows that are not a whole level (out_of_core.py).

    @property
    def reach(self) -> int:
        """How many voxels away `before_attention` looks."""
        unit = None if self.conv_name is None else self.get_submodule(self.conv_name)
        return 0 if unit is None else 2 if isinstance(unit, BasicUnit) else 1

    def before_attention(self, x: Tensor, level: Level, conv_input: Tensor | None = None) -> Tensor:
        """The block up to its attention (all of it where it has none); without gradients."""
        if self.conv_name is not None:
            unit = self.get_submodule(self.conv_name)
            assert isinstance(unit, ConvUnit | BasicUnit)
            return unit.infer(x, level, x if conv_input is None else conv_input)
        return self.norm0(x) if hasattr(self, "norm0") else x

    @property
    def rotates_by_coord(self) -> bool:
        """Whether its rotary encoding sees coordinates, not voxel indices."""
        return self.attends and self.attn.rope is not None

    def attention(self, x: Tensor, position: Tensor, length: int) -> Tensor:
        """x + attention of rows x [P * length, C] that are P whole patches; without gradients.

        position: [P * length, 3] voxel indices, or coordinates where it `rotates_by_coord`.
        """
        angles: Tensor | None = None
        if self.attn.rope is not None:
            angles = self.attn.rope(position)
        elif self.rope_base is not None:
            angles = rope_angles(position, x.shape[1] // self.num_heads, self.rope_base)
        y = self.attn.attend_patches(self.norm1(x), length, angles)
        return x + (self.ls1(y) if hasattr(self, "ls1") else y)

    def after_attention(self, x: Tensor) -> Tensor:
        """The MLP with its residual, for any rows; without gradients."""
        y = self.mlp(self.norm2(x))
        return x + (self.ls2(y) if hasattr(self, "ls2") else y)


class Stem(nn.Module):
    """Input features to the width of the first stage: a wide submanifold convolution without bias, or a linear
    layer; norm; GELU.

    Keys stem.conv.weight or stem.linear.*, stem.norm.*, input_norm.* where inputs are standardised
    first, and mask_token (1, C) where the checkpoint has one.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kind: str,
        kernel_size: int,
        norm: NormFactory,
        *,
        mask_token: bool,
        input_norm: bool,
    ) -> None:
        super().__init__()
        first: nn.Module
        if kind == "conv":
            first = SubMConv3d(in_channels, channels, kernel_size, bias=False)
        else:
            first = nn.Linear(in_channels, channels)
        self.stem = nn.ModuleDict({kind: first, "norm": norm(channels), "act": nn.GELU()})
        if input_norm:
            # momentum None: running statistics are plain means over all batches, since inputs do not drift as
            # features do; a small eps, since metres of a splat's scale vary by hundredths
            self.input_norm = nn.BatchNorm1d(in_channels, eps=1e-6, momentum=None)
        if mask_token:
            self.mask_token = nn.Parameter(torch.zeros(1, channels))

    @property
    def reach(self) -> int:
        """How many voxels away it looks."""
        first = next(iter(self.stem.values()))
        return first.kernel_size // 2 if isinstance(first, SubMConv3d) else 0

    def forward(self, feat: Tensor, level: Level) -> Tensor:
        if hasattr(self, "input_norm"):
            feat = self.input_norm(feat).clamp(-INPUT_RANGE, INPUT_RANGE)
        if "conv" in self.stem:
            conv = self.stem["conv"]
            assert isinstance(conv, SubMConv3d)
            x = conv(feat, level.neighbours(conv.kernel_size))
        else:
            x = self.stem["linear"](feat)
        return self.stem["act"](self.stem["norm"](x))
