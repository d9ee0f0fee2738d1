"""Baked light: lamps, windows, ambient occlusion, exposure and white balance. Smooth and cheap; no cast shadows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

F64 = NDArray[np.float64]

VOXEL = 0.12  # metres; occlusion is looked up one and a half voxels above the surface


@dataclass(frozen=True, eq=False)
class Lighting:
    """positions [L, 3] m, powers [L]; ambient; exposure; cast [3] per-channel gain."""

    positions: F64
    powers: F64
    ambient: float
    exposure: float
    cast: F64


def occlusion(points: F64, normals: F64, area: F64) -> F64:
    """Share of light that reaches each point, [K] in 0..1, by how much surface (`area` [K] m^2 per point) crowds the
    space just above it.
    """
    lo = points.min(0) - 4 * VOXEL
    shape = tuple((np.ceil((points.max(0) - lo) / VOXEL).astype(int) + 5).tolist())
    index = np.floor((points - lo) / VOXEL).astype(np.int64)
    flat = np.ravel_multi_index(tuple(index.T), shape)
    filled = np.bincount(flat, weights=area / VOXEL**2, minlength=int(np.prod(shape))).reshape(shape)
    filled = ndimage.gaussian_filter(np.minimum(filled, 2.0).astype(np.float32), 1.5, mode="constant")
    above = ((points + 1.5 * VOXEL * normals - lo) / VOXEL - 0.5).T
    near = ndimage.map_coordinates(filled, above, order=1, mode="nearest")
    open_wall = 0.161  # what a flat surface in the open leaves there (Gaussian kernel of 1.5 voxels, 1.5 voxels away)
    return np.clip(1.0 - 1.6 * np.clip(near - open_wall - 0.02, 0, None), 0.35, 1.0)


def shade(points: F64, normals: F64, area: F64, albedo: F64, gloss: F64, light: Lighting) -> F64:
    """Display colours [K, 3] in 0..1 of surface points of `area` [K] m^2 with `albedo` [K, 3]; `gloss` [K] adds
    brightness (panes, lamps).
    """
    reach = occlusion(points, normals, area)
    total = light.ambient * (0.85 + 0.15 * normals[:, 2]) * reach
    for position, power in zip(light.positions, light.powers):
        to = position - points
        distance = np.linalg.norm(to, axis=1)
        facing = np.clip((np.einsum("ij,ij->i", to, normals) / np.maximum(distance, 1e-6) + 0.25) / 1.25, 0, 1)
        total += power * facing * (0.4 + 0.6 * reach) / (1.0 + 0.35 * distance**2)
    linear = albedo * total[:, None] * light.exposure * light.cast + gloss[:, None] * albedo * 0.6
    return linear / (1.0 + np.clip(linear - 0.7, 0, None))  # soft shoulder instead of clipping


def draw_lighting(
    rng: np.random.Generator, lamps: F64, windows: F64, exposure: tuple[float, float], cast: float
) -> Lighting:
    """Lamps hang at `lamps` [A, 3], windows shine from `windows` [B, 3]; overall level in `exposure`, colour cast of
    strength `cast`.
    """
    positions = np.concatenate([lamps, windows])
    powers = np.concatenate([rng.uniform(0.3, 0.9, len(lamps)), rng.uniform(0.2, 0.9, len(windows))])
    gain = np.exp(rng.normal(0, cast, 3))
    return Lighting(positions, powers, float(rng.uniform(0.5, 0.75)), float(rng.uniform(*exposure)), gain / gain.mean())
