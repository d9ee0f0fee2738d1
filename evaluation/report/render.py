"""Pictures of a scene in any colours: the Gaussians' own alpha compositing, many colourings in one pass.

A small renderer of its own, as evaluation may not import stage 1: the same projection and alpha rule as 3DGS (Kerbl et
al. 2023, equations 2 to 5; cut-offs as in gsplat 1.5), without cell weights and without tiles. It draws labels,
features and heat as sharp as the scene itself.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chorus_common.scene import GaussianScene, quats_to_rotations

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_NEAR = 0.01
_BLUR = 0.3  # pixels^2 added to every footprint: nothing is thinner than a pixel
_MIN_ALPHA, _MAX_ALPHA, _MIN_TRANSMITTANCE = 1 / 255, 0.999, 1e-3


def draw(scene: GaussianScene, viewmat: F64, intrinsics: F64, width: int, height: int, values: F32) -> tuple[F32, F32]:
    """Composite per-Gaussian values front to back.

    Args:
        viewmat [4, 4] world to camera, intrinsics [3, 3] of a width x height picture (OpenCV, pixel centres at +0.5).
        values [N, C]: colours or anything else; C may be large, it costs one pass.

    Returns (sum of weight x value [height, width, C] f32, alpha = sum of weights [height, width] f32).
    """
    values = np.ascontiguousarray(values, dtype=np.float32)
    picture = np.zeros((height, width, values.shape[1]), dtype=np.float32)
    transmittance = np.ones((height, width), dtype=np.float32)
    centers, conics, radii, depth = _project(scene, viewmat, intrinsics, width, height)
    order = np.argsort(depth, kind="stable")
    order = order[np.isfinite(depth[order])]
    _composite(order, centers, conics, radii, scene.opacities, values, picture, transmittance)
    return picture, 1 - transmittance


def _project(scene: GaussianScene, viewmat: F64, k: F64, width: int, height: int) -> tuple[F64, F64, F64, F64]:
    """Centres [N, 2] px, inverse covariances (a, b, c) [N, 3], half extents [N, 2] px and depths [N] (inf = not in
    view).
    """
    rotation, translation = viewmat[:3, :3], viewmat[:3, 3]
    p = scene.means.astype(np.float64) @ rotation.T + translation
    z = np.where(p[:, 2] > _NEAR, p[:, 2], np.inf)
    fx, fy = k[0, 0], k[1, 1]
    # The linearisation is taken no further out than 30 % beyond the picture, where it would explode.
    lim_x, lim_y = 0.65 * width / fx, 0.65 * height / fy
    tx, ty = np.clip(p[:, 0] / z, -lim_x, lim_x), np.clip(p[:, 1] / z, -lim_y, lim_y)
    jacobian = np.zeros((len(p), 2, 3))
    jacobian[:, 0, 0], jacobian[:, 0, 2] = fx / z, -fx * tx / z
    jacobian[:, 1, 1], jacobian[:, 1, 2] = fy / z, -fy * ty / z
    axes = quats_to_rotations(scene.quats.astype(np.float64)) * scene.scales.astype(np.float64)[:, None, :]
    footprint = jacobian @ rotation @ axes  # [N, 2, 3]
    cov = footprint @ footprint.transpose(0, 2, 1)
    a, b, c = cov[:, 0, 0] + _BLUR, cov[:, 0, 1], cov[:, 1, 1] + _BLUR
    det = a * c - b * b
    opacity = scene.opacities.astype(np.float64)
    reach = np.sqrt(2 * np.log(np.maximum(opacity / _MIN_ALPHA, 1.0)))
    radii = np.stack([reach * np.sqrt(a), reach * np.sqrt(c)], axis=1)
    centers = np.stack([fx * p[:, 0] / z + k[0, 2], fy * p[:, 1] / z + k[1, 2]], axis=1)
    seen = np.isfinite(z) & (reach > 0) & (det > 0)
    seen &= (centers + radii > 0).all(axis=1) & (centers - radii < (width, height)).all(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        conics = np.stack([c / det, -b / det, a / det], axis=1)
    return centers, conics, radii, np.where(seen, z, np.inf)


@njit(cache=True, nogil=True)
def _composite(order, centers, conics, radii, opacities, values, picture, transmittance):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    height, width, channels = picture.shape
    for g in order:
        x, y = centers[g]
        a, b, c = conics[g]
        x0, x1 = max(0, int(np.floor(x - radii[g, 0]))), min(width, int(np.ceil(x + radii[g, 0])) + 1)
        y0, y1 = max(0, int(np.floor(y - radii[g, 1]))), min(height, int(np.ceil(y + radii[g, 1])) + 1)
        for v in range(y0, y1):
            dy = v + 0.5 - y
            for u in range(x0, x1):
                t = transmittance[v, u]
                if t < _MIN_TRANSMITTANCE:
                    continue
                dx = u + 0.5 - x
                sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
                alpha = min(_MAX_ALPHA, opacities[g] * np.exp(-sigma))
                if alpha < _MIN_ALPHA:
                    continue
                weight = np.float32(alpha * t)
                for k in range(channels):
                    picture[v, u, k] += weight * values[g, k]
                transmittance[v, u] = t * (1 - alpha)
