"""A slow, plain float64 rasteriser with the rule of gsplat 1.5.3: the twin that fast rasterisers are compared with.

One dense [pixels, Gaussians] matrix of weights, no tiles, no cut-offs but those of the rule. The exponent is in
gsplat's own form 0.5 (A dx^2 + C dy^2) + B dx dy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chorus_common.scene import GaussianScene, RenderMode, quats_to_rotations

F64 = NDArray[np.float64]


@dataclass
class Reference:
    """color [H, W, 3], depth [H, W], alpha [H, W], weights [H * W, N], doubtful [H, W]: pixels on the edge of a cut-
    off."""

    color: F64
    depth: F64
    alpha: F64
    weights: F64
    doubtful: NDArray[np.bool_]


def project(
    scene: GaussianScene, viewmat: F64, K: F64, width: int, height: int
) -> tuple[F64, F64, F64, F64, F64, NDArray[np.bool_]]:
    """means2d [N, 2], covariances [N, 2, 2] with the low-pass filter, opacities on the screen [N], depths [N], radii
    [N, 2], visible [N]."""
    rotation, shift = viewmat[:3, :3], viewmat[:3, 3]
    camera = scene.means.astype(np.float64) @ rotation.T + shift
    z = camera[:, 2]
    near = z >= 0.01
    z_safe = np.where(near, z, 1.0)
    axes = quats_to_rotations(scene.quats.astype(np.float64)) * scene.scales.astype(np.float64)[:, None, :]
    covariance = rotation @ (axes @ axes.transpose(0, 2, 1)) @ rotation.T
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    tan_x, tan_y = 0.5 * width / fx, 0.5 * height / fy
    x = z_safe * np.clip(camera[:, 0] / z_safe, -(cx / fx + 0.3 * tan_x), (width - cx) / fx + 0.3 * tan_x)
    y = z_safe * np.clip(camera[:, 1] / z_safe, -(cy / fy + 0.3 * tan_y), (height - cy) / fy + 0.3 * tan_y)
    jacobian = np.zeros((len(z), 2, 3))
    jacobian[:, 0, 0], jacobian[:, 0, 2] = fx / z_safe, -fx * x / z_safe**2
    jacobian[:, 1, 1], jacobian[:, 1, 2] = fy / z_safe, -fy * y / z_safe**2
    cov2d = jacobian @ covariance @ jacobian.transpose(0, 2, 1)
    opacity = scene.opacities.astype(np.float64)
    blur = 0.1 if scene.render_mode == RenderMode.MIP else 0.3
    before, cov2d = np.linalg.det(cov2d), cov2d + blur * np.eye(2)
    if scene.render_mode in (RenderMode.ANTIALIASED, RenderMode.MIP):
        opacity = opacity * np.sqrt(np.maximum(before, 0) / np.linalg.det(cov2d))
    means2d = np.stack([fx * camera[:, 0] / z_safe + cx, fy * camera[:, 1] / z_safe + cy], 1)
    bright = opacity >= 1 / 255
    extend = np.minimum(3.33, np.sqrt(2 * np.log(np.where(bright, opacity, 1.0) * 255)))
    radii = np.ceil(extend[:, None] * np.sqrt(np.stack([cov2d[:, 0, 0], cov2d[:, 1, 1]], 1)))
    inside = (means2d + radii > 0).all(1) & (means2d - radii < [width, height]).all(1)
    return means2d, cov2d, opacity, z, radii, near & bright & inside


def render(
    scene: GaussianScene,
    viewmat: F64,
    K: F64,
    width: int,
    height: int,
    background: tuple[float, float, float] = (0, 0, 0),
    margin: float = 1e-3,
) -> Reference:
    """Render by brute force. A pixel is doubtful where some alpha comes within `margin` (relative) of 1/255 or a
    transmittance of 1e-4, or where two contributors are so close in depth that float32 may order them otherwise."""
    means2d, cov2d, opacities, z, _, visible = project(scene, viewmat, K, width, height)
    ids = np.flatnonzero(visible)
    ids = ids[np.argsort(z[ids].astype(np.float32), kind="stable")]
    xs, ys = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    pixels = np.stack([xs.ravel(), ys.ravel()], 1)
    transmittance = np.ones(len(pixels))
    stopped = np.zeros(len(pixels), bool)
    doubtful = np.zeros(len(pixels), bool)
    weights = np.zeros((len(pixels), len(scene)))
    last_depth = np.full(len(pixels), -1.0)
    for i in ids:
        conic = np.linalg.inv(cov2d[i])
        d = pixels - means2d[i]
        sigma = 0.5 * (conic[0, 0] * d[:, 0] ** 2 + conic[1, 1] * d[:, 1] ** 2) + conic[0, 1] * d[:, 0] * d[:, 1]
        alpha = np.minimum(0.999, opacities[i] * np.exp(-sigma))
        counts = (sigma >= 0) & (alpha >= 1 / 255) & ~stopped
        after = transmittance * (1 - alpha)
        doubtful |= ~stopped & (np.abs(alpha * 255 - 1) < margin)
        doubtful |= counts & (np.abs(after / 1e-4 - 1) < margin)
        doubtful |= counts & (np.abs(z[i] - last_depth) < 1e-6 * z[i]) & (z[i] != last_depth)
        last_depth = np.where(counts, z[i], last_depth)
        stops = counts & (after <= 1e-4)
        stopped |= stops
        counts &= ~stops
        weights[counts, i] = alpha[counts] * transmittance[counts]
        transmittance = np.where(counts, after, transmittance)
    total = weights.sum(1)
    color = weights @ scene.colors.astype(np.float64) + (1 - total)[:, None] * np.asarray(background)
    depth = np.where(total > 0, weights @ z / np.where(total > 0, total, 1), 0)
    shape = (height, width)
    return Reference(
        color.reshape(*shape, 3), depth.reshape(shape), total.reshape(shape), weights, doubtful.reshape(shape)
    )


def interpolation_matrix(width: int, height: int, cell: int, interpolation: str) -> F64:
    """[cells, pixels]: the share that a pixel gives to every cell, the transpose of nearest or bilinear upsampling by
    `cell`."""

    def axis(n: int) -> F64:
        count = -(-n // cell)
        matrix = np.zeros((count, n))
        for k in range(n):
            if interpolation == "nearest":
                matrix[k // cell, k] = 1
            else:
                centre = min(max((k + 0.5) / cell - 0.5, 0.0), count - 1.0)
                low = int(np.floor(centre))
                matrix[low, k] += 1 - (centre - low)
                matrix[min(low + 1, count - 1), k] += centre - low
        return matrix

    both = np.kron(axis(height), axis(width)).astype(np.float64)
    return both
