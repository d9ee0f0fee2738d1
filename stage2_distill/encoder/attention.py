"""Serialized patch attention (PTv3, section 4.2): rows in curve order are cut into patches of K, and each patch
attends to itself.

Partition of a cloud of n rows (Pointcept `SerializedAttention.get_padding_and_inverse`): n <= K gives one patch of
exactly n; otherwise, where n is no multiple of K, the last patch is filled up with the rows that precede it K
positions earlier, and those rows keep the result of their own patch.
No masks, no padding values: every patch holds real rows only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage2_distill.encoder.rope import RotaryFrequencies, apply_rope

LOW_PRECISION = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class Patches:
    """Patches of all clouds along one curve.

    Attributes:
        groups: one [P, L] i64 tensor of row indices per patch length L.
        inverse: [N] i64, position of each row's own result in the concatenation of the flattened groups.
        owners: per group [P, L] i64, the row whose result this is; N for rows that only fill up a patch.
    """

    groups: tuple[Tensor, ...]
    inverse: Tensor
    owners: tuple[Tensor, ...]

    def tiles(self, tile_rows: int) -> Iterator[tuple[Tensor, int, Tensor]]:
        """Whole patches, about `tile_rows` rows at a time: (rows [n], length of each patch, owners [n]). Each row owns
        the result in one tile alone.
        """
        for group, owner in zip(self.groups, self.owners):
            step = max(1, tile_rows // group.shape[1])
            for i in range(0, len(group), step):
                yield group[i : i + step].reshape(-1), group.shape[1], owner[i : i + step].reshape(-1)


def cut_patches(order: Tensor, ends: Sequence[int], patch_size: int) -> Patches:
    """Cut rows in curve `order` [N] (clouds contiguous, cumulative row counts `ends`) into patches of `patch_size`."""
    by_length: dict[int, list[Tensor]] = {}
    primary: dict[int, list[tuple[Tensor, Tensor]]] = {}  # rows and where their result lies within the group
    filled: dict[int, int] = {}
    start = 0
    for end in ends:
        rows, n = order[start:end], end - start
        start = end
        length = min(n, patch_size)
        tail = n % length
        own = torch.arange(n, device=order.device) + filled.get(length, 0)
        if tail:  # fill the last patch from the patch before it
            rows_padded = torch.cat([rows, rows[n - tail - (length - tail) : n - tail]])
        else:
            rows_padded = rows
        by_length.setdefault(length, []).append(rows_padded.view(-1, length))
        primary.setdefault(length, []).append((rows, own))
        filled[length] = filled.get(length, 0) + len(rows_padded)
    inverse = torch.empty_like(order)
    base = 0
    for length in by_length:
        for rows, own in primary[length]:
            inverse[rows] = own + base
        base += filled[length]
    groups = tuple(torch.cat(v) for v in by_length.values())
    owner = order.new_full((base,), len(order))
    owner[inverse] = torch.arange(len(order), device=order.device)
    parts = owner.split([g.numel() for g in groups])
    return Patches(groups, inverse, tuple(o.view_as(g) for o, g in zip(parts, groups)))


class SerializedAttention(nn.Module):
    """Multi-head attention within patches: `qkv` (3C, C), `proj` (C, C); rows of qkv are q, k, v, each head-major.

    rope: frequencies of a rotary encoding of coordinates (keys `rope.inv_freq`); None = there is none, or it is one of
    voxel indices.
    """

    def __init__(
        self, channels: int, num_heads: int, qkv_bias: bool = True, rope: RotaryFrequencies | None = None
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)
        self.rope = rope

    def forward(self, x: Tensor, patches: Patches, angles: Tensor | None = None) -> Tensor:
        """x [N, C], patches of the level, optional rotary angles [N, 3, D/2]; returns [N, C]."""
        return self.proj(patch_attention(self.qkv(x), self.num_heads, patches, angles))

    def attend_patches(self, x: Tensor, length: int, angles: Tensor | None) -> Tensor:
        """The result for rows x [P * length, C] that are P whole patches, one after the other."""
        return self.proj(_attend(_rotate(self.qkv(x), self.num_heads, angles), length, self.num_heads))


def patch_attention(qkv: Tensor, num_heads: int, patches: Patches, angles: Tensor | None = None) -> Tensor:
    """Softmax attention with scale (C / heads)^-0.5 within each patch; qkv [N, 3C] -> [N, C]."""
    qkv = _rotate(qkv, num_heads, angles)
    results = [_attend(qkv.index_select(0, rows.view(-1)), rows.shape[1], num_heads) for rows in patches.groups]
    result = results[0] if len(results) == 1 else torch.cat(results)
    return result.index_select(0, patches.inverse)


def _rotate(qkv: Tensor, num_heads: int, angles: Tensor | None) -> Tensor:
    """Queries and keys of qkv [n, 3C] turned by angles [n, 3, D/2]."""
    if angles is None:
        return qkv
    q, k, v = qkv.view(len(qkv), 3, num_heads, -1).unbind(1)
    return torch.stack([apply_rope(q, angles), apply_rope(k, angles), v], dim=1).view_as(qkv)


def _attend(qkv: Tensor, length: int, num_heads: int) -> Tensor:
    """Attention within consecutive runs of `length` rows; qkv [P * L, 3C] -> [P * L, C]."""
    parts = qkv.view(-1, length, 3, num_heads, qkv.shape[1] // (3 * num_heads))  # [P, L, 3, H, D]
    q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)  # [P, H, L, D] each
    if qkv.device.type == "cpu" and qkv.dtype in LOW_PRECISION and q.shape[-1] < 64:
        # narrow heads spend their time in the softmax: the fused CPU kernel is slower in low precision than in fp32
        with torch.autocast("cpu", enabled=False):
            out = F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(qkv.dtype)
    else:
        out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).reshape(len(qkv), -1)  # [P * L, C]
