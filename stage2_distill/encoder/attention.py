"""Serialized patch attention (PTv3, section 4.2): rows in curve order are cut into patches of K, and each patch attends to itself.

Partition of a cloud of n rows (Pointcept `SerializedAttention.get_padding_and_inverse`): n <= K gives one patch of exactly n; otherwise, where n is no
multiple of K, the last patch is filled up with the rows that precede it K positions earlier, and those rows keep the result of their own patch.
No masks, no padding values: every patch holds real rows only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage2_distill.encoder.rope import apply_rope


@dataclass(frozen=True, eq=False)
class Patches:
    """Patches of all clouds along one curve.

    Attributes:
        groups: one [P, L] i64 tensor of row indices per patch length L.
        inverse: [N] i64, position of each row's own result in the concatenation of the flattened groups.
    """

    groups: tuple[Tensor, ...]
    inverse: Tensor


def cut_patches(order: Tensor, offset: Tensor, patch_size: int) -> Patches:
    """Cut rows in curve `order` [N] (clouds contiguous, ends at `offset` [B]) into patches of `patch_size`."""
    by_length: dict[int, list[Tensor]] = {}
    primary: dict[int, list[tuple[Tensor, Tensor]]] = {}  # rows and where their result lies within the group
    filled: dict[int, int] = {}
    start = 0
    for end in offset.tolist():
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
    return Patches(tuple(torch.cat(v) for v in by_length.values()), inverse)


class SerializedAttention(nn.Module):
    """Multi-head attention within patches: `qkv` (3C, C), `proj` (C, C); rows of qkv are q, k, v, each head-major."""

    def __init__(self, channels: int, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, patches: Patches, angles: Tensor | None = None) -> Tensor:
        """x [N, C], patches of the level, optional rotary angles [N, 3, D/2]; returns [N, C]."""
        return self.proj(patch_attention(self.qkv(x), self.heads, patches, angles))


def patch_attention(qkv: Tensor, heads: int, patches: Patches, angles: Tensor | None = None) -> Tensor:
    """Softmax attention with scale (C / heads)^-0.5 within each patch; qkv [N, 3C] -> [N, C]."""
    n, channels = len(qkv), qkv.shape[1] // 3
    if angles is not None:
        q, k, v = qkv.view(n, 3, heads, -1).unbind(1)
        qkv = torch.stack([apply_rope(q, angles), apply_rope(k, angles), v], dim=1).view(n, 3 * channels)
    results = []
    for rows in patches.groups:
        count, length = rows.shape
        gathered = qkv.index_select(0, rows.view(-1)).view(count, length, 3, heads, -1)  # [P, L, 3, H, D]
        q, k, v = gathered.permute(2, 0, 3, 1, 4).unbind(0)  # [P, H, L, D] each
        out = F.scaled_dot_product_attention(q, k, v)  # [P, H, L, D]
        results.append(out.transpose(1, 2).reshape(-1, channels))
    result = results[0] if len(results) == 1 else torch.cat(results)
    return result.index_select(0, patches.inverse)
