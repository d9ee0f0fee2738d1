"""Rotary position encoding of points: PointROPE by voxel indices (LitePT, Yue et al. 2025; prs-eth/LitePT
litept/model.py), or by coordinates (Utonia, arXiv 2603.03283; Pointcept PT-v3m3).

The head dimension is split into three equal parts, one per axis. In the part of axis a, channels i and i + D/2 (D =
part width) form a pair that is rotated by position[a] / base^(2i / D). Dot products of rotated queries and keys depend
on differences of positions only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RotaryFrequencies(nn.Module):
    """Frequencies of one attention as a buffer `inv_freq` [D/2], which Utonia's files hold for every block."""

    inv_freq: Tensor

    def __init__(self, head_dim: int, base: float) -> None:
        super().__init__()
        self.register_buffer("inv_freq", _frequencies(head_dim, base, torch.device("cpu")))
        self._read: tuple[tuple[int, int], tuple[float, ...]] | None = None

    def frequencies(self) -> tuple[float, ...]:
        """The numbers of `inv_freq`; read again only after they were moved or changed."""
        state = self.inv_freq.data_ptr(), self.inv_freq._version
        if self._read is None or self._read[0] != state:
            self._read = state, tuple(self.inv_freq.tolist())
        return self._read[1]

    def forward(self, coord: Tensor) -> Tensor:
        """Rotation angles [N, 3, D/2] in radians of coordinates [N, 3]."""
        return coord[:, :, None].float() * self.inv_freq.float()


def rope_angles(grid: Tensor, head_dim: int, base: float) -> Tensor:
    """Rotation angles [N, 3, D/2] in radians of voxels `grid` [N, 3] i64, with D = 2 * (head_dim // 6)."""
    return grid[:, :, None].float() * _frequencies(head_dim, base, grid.device)


def apply_rope(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate heads x [N, H, head_dim] by angles [N, 3, D/2]; computed in fp32 at least, returned in the dtype of x.

    Where head_dim is no multiple of 6, the channels after the last full part carry no position and pass unchanged.
    """
    n, num_heads, head_dim = x.shape
    half = angles.shape[2]
    wide = torch.promote_types(x.dtype, torch.float32)
    parts = x[..., : 6 * half].to(wide).view(n, num_heads, 3, 2, half)  # [N, H, axis, member of the pair, D/2]
    u, v = parts.unbind(3)  # [N, H, 3, D/2] each
    cos, sin = angles.to(wide).cos()[:, None], angles.to(wide).sin()[:, None]  # [N, 1, 3, D/2]
    rotated = torch.stack([u * cos - v * sin, v * cos + u * sin], dim=3).view(n, num_heads, 6 * half).to(x.dtype)
    return rotated if 6 * half == head_dim else torch.cat([rotated, x[..., 6 * half :]], dim=-1)


def _frequencies(head_dim: int, base: float, device: torch.device) -> Tensor:
    """base^(-2i / D) for i = 0 ... D/2 - 1, with D = 2 * (head_dim // 6)."""
    half = head_dim // 6
    return base ** -(torch.arange(half, device=device, dtype=torch.float32) / half)
