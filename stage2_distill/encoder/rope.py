"""PointROPE: rotary position encoding by voxel coordinates (LitePT, Yue et al. 2025; prs-eth/LitePT litept/model.py).

The head dimension is split into three equal parts, one per axis. In the part of axis a, channels i and i + D/2 (D =
part width) form a pair that is rotated by grid_coord[a] / base^(2i / D). Dot products of rotated queries and keys
depend on coordinate differences only.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rope_angles(grid: Tensor, head_dim: int, base: float) -> Tensor:
    """Rotation angles [N, 3, D/2] in radians of voxels `grid` [N, 3] i64, with D = 2 * (head_dim // 6)."""
    half = head_dim // 6
    exponents = torch.arange(half, device=grid.device, dtype=torch.float32) / half
    return grid[:, :, None].float() * (base**-exponents)


def apply_rope(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate heads x [N, H, head_dim] by angles [N, 3, D/2]; computed in fp32 at least, returned in the dtype of x.

    Where head_dim is no multiple of 6, the channels after the last full part carry no position and pass unchanged.
    """
    n, heads, head_dim = x.shape
    half = angles.shape[2]
    wide = torch.promote_types(x.dtype, torch.float32)
    parts = x[..., : 6 * half].to(wide).view(n, heads, 3, 2, half)  # [N, H, axis, member of the pair, D/2]
    u, v = parts.unbind(3)  # [N, H, 3, D/2] each
    cos, sin = angles.to(wide).cos()[:, None], angles.to(wide).sin()[:, None]  # [N, 1, 3, D/2]
    rotated = torch.stack([u * cos - v * sin, v * cos + u * sin], dim=3).view(n, heads, 6 * half).to(x.dtype)
    return rotated if 6 * half == head_dim else torch.cat([rotated, x[..., 6 * half :]], dim=-1)
