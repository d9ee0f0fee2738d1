"""Blocks of the trunk: convolution, patch attention, MLP, with residuals; and the stem. Attribute names give
upstream's state-dict keys.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

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

    def forward(self, x: Tensor, level: Level | None) -> Tensor:
        """`level`: whose rows x [N, C] are; not needed at inference, where nothing is dropped."""
        if not self.training or self.rate == 0:
            return x
        assert level is not None, "training drops the rows of a level"
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


def tiled(module: nn.Module) -> bool:
    """Whether a module works tile by tile, so that wide intermediates exist for a tile of rows only: at inference."""
    return not torch.is_grad_enabled() and not module.training


class ConvUnit(nn.ModuleList):
    """x + norm(linear(conv(source))): submanifold convolution k = 3, Linear, LayerNorm; keys 0, 1, 2. The source is x,
    or the skip branch in m1's decoders.
    """

    reach = 1  #: how many voxels away it looks

    def __init__(self, channels: int) -> None:
        super().__init__([SubMConv3d(channels, channels, 3), nn.Linear(channels, channels), nn.LayerNorm(channels)])

    def forward(self, x: Tensor, level: Level, source: Tensor) -> Tensor:
        conv, table = self[0], level.neighbours(3)
        assert isinstance(conv, SubMConv3d)
        if not tiled(self):
            return x + self[2](self[1](conv(source, table)))
        out = torch.empty_like(x)
        for span, values in conv.tiles(source, table):
            out[span] = x[span] + self[2](self[1](values))
        return out


class BasicUnit(nn.ModuleList):
    """The residual block of He et al. 2016 on sparse voxels, MinkUNet's BasicBlock: act(x + norm(conv(act(norm(
    conv(source)))))), k = 3. Keys 0 to 3.

    Two changes: the last norm starts at zero, so that a block starts as the identity; and kernels are scaled to a
    dozen neighbours, which a voxel of a surface has, rather than to all 27.
    """

    reach = 2  #: how many voxels away it looks

    def __init__(self, channels: int, norm: NormFactory) -> None:
        first, second = (SubMConv3d(channels, channels, 3, bias=False) for _ in range(2))
        super().__init__([first, norm(channels), second, norm(channels)])
        for conv in (first, second):
            nn.init.normal_(conv.weight, std=(2 / (SURFACE_NEIGHBOURS * channels)) ** 0.5)
        last = self[3]
        assert isinstance(last.weight, Tensor)
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor, level: Level, source: Tensor) -> Tensor:
        first, second, table = self[0], self[2], level.neighbours(3)
        assert isinstance(first, SubMConv3d)
        assert isinstance(second, SubMConv3d)
        if not tiled(self):
            return F.gelu(x + self[3](second(F.gelu(self[1](first(source, table))), table)))
        hidden, out = torch.empty_like(x), torch.empty_like(x)
        for span, values in first.tiles(source, table):
            hidden[span] = F.gelu(self[1](values))
        for span, values in second.tiles(hidden, table):
            out[span] = F.gelu(x[span] + self[3](values))
        return out


class Block(nn.Module):
    """One block at one level; [N, C] -> [N, C].

    "ptv3" (point_transformer_v3m1_base.py:251-338): x += cpe(x); x += attn(LN(x)); x += mlp(LN(x)).
    "litept" (LitePT model.py:600-690): conv blocks are x += conv(x) and nothing more; attention blocks without
    convolution start with x = LN(x), without a residual.
    "basic": as "litept", with the convolutions of `BasicUnit`.

    A block is `before_attention`, `add_attention`, `add_mlp`, one after the other; a part that a block does not have is
    the identity. Training runs them on all rows of a level, inference tile by tile, out_of_core.py on rows from disk.

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
        else:
            self.norm0 = nn.Identity() if style == "ptv3" else nn.Sequential(nn.LayerNorm(channels))
        self.attends = attn
        if not attn:
            return

        def scale() -> nn.Module:
            return nn.Identity() if layer_scale is None else nn.Sequential(LayerScale(channels, layer_scale))

        by_coord = rope_base is not None and rope_position == "coord"
        rope = RotaryFrequencies(channels // num_heads, rope_base) if by_coord and rope_base is not None else None
        self.norm1 = nn.Sequential(nn.LayerNorm(channels))
        self.ls1 = scale()
        self.attn = SerializedAttention(channels, num_heads, qkv_bias, rope)
        self.norm2 = nn.Sequential(nn.LayerNorm(channels))
        self.ls2 = scale()
        self.mlp = nn.Sequential(MLP(channels, mlp_ratio))
        self.drop_path1, self.drop_path2 = (DropPath(drop_path, 2 * number + k) for k in range(2))

    def forward(self, x: Tensor, level: Level, conv_input: Tensor | None = None) -> Tensor:
        """`conv_input`: what the convolution reads in place of x (m1 decoders, where it sees the skip branch only)."""
        x = self.before_attention(x, level, conv_input)
        if not self.attends:
            return x
        patches, angles = level.patches(self.index, self.patch_size), self._angles(level, x.shape[1])
        if not tiled(self):
            x = self.add_attention(x, lambda y: self.attn(y, patches, angles), level)
            return self.add_mlp(x, level)
        tile = CPU_TILE if x.device.type == "cpu" else DEVICE_TILE
        # what fills up a patch goes into a row of its own: choosing the others by a mask makes a device's host wait
        room = x.new_empty(len(x) + 1, x.shape[1])
        for rows, length, owners in patches.tiles(2 * tile):
            turn = None if angles is None else angles.index_select(0, rows)
            attend = partial(self.attn.attend_patches, length=length, angles=turn)
            room[owners] = self.add_attention(x.index_select(0, rows), attend)
        out = room[: len(x)]
        for start in range(0, len(out), tile):
            out[start : start + tile] = self.add_mlp(out[start : start + tile])
        return out

    @property
    def reach(self) -> int:
        """How many voxels away `before_attention` looks."""
        return 0 if self.conv_name is None else self._conv.reach

    @property
    def rotates_by_coord(self) -> bool:
        """Whether its rotary encoding sees coordinates, not voxel indices."""
        return self.attends and self.attn.rope is not None

    def before_attention(self, x: Tensor, level: Level, conv_input: Tensor | None = None) -> Tensor:
        """The block up to its attention: its convolution, or its norm, or nothing."""
        if self.conv_name is None:
            return self.norm0(x)
        return self._conv(x, level, x if conv_input is None else conv_input)

    def add_attention(self, x: Tensor, attend: Callable[[Tensor], Tensor], level: Level | None = None) -> Tensor:
        """x + attention of rows x; `attend` computes it from their norm. `level`: whose rows they are, in training."""
        return x + self.drop_path1(self.ls1(attend(self.norm1(x))), level)

    def add_mlp(self, x: Tensor, level: Level | None = None) -> Tensor:
        """x + MLP, for any rows. `level`: whose rows they are, in training."""
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))), level)

    def attend_rows(self, x: Tensor, position: Tensor, length: int) -> Tensor:
        """`add_attention` for rows x [P * length, C] that are P whole patches, from their positions alone.

        position: [P * length, 3] voxel indices, or coordinates where it `rotates_by_coord`.
        """
        angles: Tensor | None = None
        if self.attn.rope is not None:
            angles = self.attn.rope(position)
        elif self.rope_base is not None:
            angles = rope_angles(position, x.shape[1] // self.num_heads, self.rope_base)
        return self.add_attention(x, partial(self.attn.attend_patches, length=length, angles=angles))

    @property
    def _conv(self) -> ConvUnit | BasicUnit:
        assert self.conv_name is not None
        unit = self.get_submodule(self.conv_name)
        assert isinstance(unit, ConvUnit | BasicUnit)
        return unit

    def _angles(self, level: Level, channels: int) -> Tensor | None:
        """Rotary angles [N, 3, D/2] of a level, or None without rotary encoding."""
        if self.rope_base is None:
            return None
        if self.attn.rope is not None:
            return level.coord_angles(self.attn.rope)
        return level.angles(channels // self.num_heads, self.rope_base)


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
