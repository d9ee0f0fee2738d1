"""A slow, plain float64 rasteriser in torch: gradients by autograd, no tiles. The twin of the fast one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from chorus_common.cameras import look_at, pinhole


def rotations(quats: Tensor) -> Tensor:
    """Rotation matrices [N, 3, 3] of quaternions [N, 4] wxyz of any length."""
    w, x, y, z = (quats / quats.norm(dim=1, keepdim=True)).unbind(1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, 1).reshape(-1, 3, 3)


def rasterize_twin(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, values: Tensor, viewmat: Tensor,
    intrinsics: Tensor, width: int, height: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(picture [H, W, C], depth [H, W] = sum w z, alpha [H, W]) by gsplat 1.5.3's rule, Gaussian after Gaussian."""
    affine, shift = viewmat[:3, :3], viewmat[:3, 3]
    camera = means @ affine.T + shift
    z = camera[:, 2]
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    axes = rotations(quats) * scales[:, None, :]
    covariance = affine @ (axes @ axes.transpose(1, 2)) @ affine.T
    tx = (camera[:, 0] / z).clamp(-cx / fx - 0.15 * width / fx, (width - cx) / fx + 0.15 * width / fx)
    ty = (camera[:, 1] / z).clamp(-cy / fy - 0.15 * height / fy, (height - cy) / fy + 0.15 * height / fy)
    zero = torch.zeros_like(z)
    jacobian = torch.stack([fx / z, zero, -fx * tx / z, zero, fy / z, -fy * ty / z], 1).reshape(-1, 2, 3)
    cov2d = jacobian @ covariance @ jacobian.transpose(1, 2) + 0.3 * torch.eye(2, dtype=z.dtype)
    conic = torch.linalg.inv(cov2d)
    mean2d = torch.stack([fx * camera[:, 0] / z + cx, fy * camera[:, 1] / z + cy], 1)
    ys, xs = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([xs, ys], -1).to(z.dtype)
    rest = torch.ones(height, width, dtype=z.dtype)
    stopped = torch.zeros(height, width, dtype=torch.bool)
    picture = torch.zeros(height, width, values.shape[1], dtype=z.dtype)
    depth = torch.zeros(height, width, dtype=z.dtype)
    for i in torch.argsort(z.detach(), stable=True).tolist():
        if z[i] < 0.01 or opacities[i] < 1 / 255:
            continue
        d = pixels - mean2d[i]
        sigma = 0.5 * torch.einsum("hwi,ij,hwj->hw", d, conic[i], d)
        alpha = (opacities[i] * torch.exp(-sigma)).clamp(max=0.999)
        counts = (alpha >= 1 / 255) & ~stopped
        after = rest * (1 - alpha)
        stopped |= counts & (after <= 1e-4)
        counts &= ~stopped
        weight = torch.where(counts, alpha * rest, 0)
        picture = picture + weight[..., None] * values[i]
        depth = depth + weight * z[i]
        rest = torch.where(counts, after, rest)
    return picture, depth, 1 - rest


def some_gaussians(seed: int, n: int, channels: int, *, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """means, quats, scales, opacities, values in a box of 2 m around the origin; some are opaque, some hardly there."""
    g = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    parts = [
        (uniform(n, 3) - 0.5) * 2,
        torch.randn(n, 4, generator=g, dtype=torch.float64) * 1.5,
        uniform(n, 3) * 0.25 + 0.02,
        uniform(n) * 1.04 - 0.02,
        uniform(n, channels) * 2 - 1,
    ]
    parts[3] = parts[3].clamp(0.001, 0.9995)
    return [p.to(dtype) for p in parts]


def some_camera(width: int, height: int, *, affine: bool = False) -> tuple[Tensor, Tensor]:
    """viewmat [4, 4] and intrinsics [3, 3] f64 of a camera 2 m away; affine: of a stretched, mirrored space."""
    view = torch.tensor(look_at(np.array([1.7, 0.4, 0.9]), np.zeros(3)))
    if affine:
        before = torch.diag(torch.tensor([1.3, -0.8, 0.6, 1.0], dtype=torch.float64))
        before[:3, 3] = torch.tensor([0.1, 0.0, -0.2])
        view = view @ before
    return view, torch.tensor(pinhole(width, height, 65))
