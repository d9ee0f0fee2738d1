"""Compiled loops over Gaussians and rays. Every order of additions is fixed by the data."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Samples along an axis of a Gaussian whose standard deviation is a voxel wide.
SAMPLES_PER_SIGMA = 4.0


@njit(nogil=True, cache=True, error_model="numpy")
def samples_needed(scales: F32, opacities: F32, least_opacity: float, per_sigma: float, most: int) -> float:
    """How many samples `deposit` makes with these arguments."""
    total = 0.0
    for i in range(len(scales)):
        if opacities[i] >= least_opacity:
            a, b, c = scales[i, 0], scales[i, 1], scales[i, 2]
            longest = max(a, b, c)
            middle = a + b + c - longest - min(a, b, c)
            total += min(most, max(1.0, math.ceil(longest * per_sigma))) * min(
                most, max(1.0, math.ceil(middle * per_sigma))
            )
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def deposit(
    means: F32,
    quats: F32,
    scales: F32,
    opacities: F32,
    frame: F64,
    low: F64,
    step: float,
    least_opacity: float,
    most: int,
    quantiles: F64,
    mass: F32,
) -> None:
    """Add to mass [X, Y, Z] the surface of every Gaussian, in areas of a voxel's face.

    A Gaussian counts as the flat disc of its two long axes, of area 2 pi s1 s2 times its opacity. The disc is spread
    over a lattice of quantiles [n, :n] of the normal distribution, about 0.6 voxels apart in its middle.
    """
    nx, ny, nz = mass.shape
    per_sigma = SAMPLES_PER_SIGMA / step
    axes = np.empty((3, 3))
    for i in range(len(means)):
        if opacities[i] < least_opacity:
            continue
        w, x, y, z = quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]
        axes[0, 0], axes[1, 0], axes[2, 0] = 1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)
        axes[0, 1], axes[1, 1], axes[2, 1] = 2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)
        axes[0, 2], axes[1, 2], axes[2, 2] = 2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)
        thinnest = 0
        if scales[i, 1] < scales[i, thinnest]:
            thinnest = 1
        if scales[i, 2] < scales[i, thinnest]:
            thinnest = 2
        first, second = (thinnest + 1) % 3, (thinnest + 2) % 3
        s1, s2 = float(scales[i, first]), float(scales[i, second])
        n1 = int(min(float(most), max(1.0, math.ceil(s1 * per_sigma))))
        n2 = int(min(float(most), max(1.0, math.ceil(s2 * per_sigma))))
        value = 2 * math.pi * s1 * s2 * opacities[i] / (n1 * n2 * step * step)
        for j in range(n1):
            for k in range(n2):
                a, b = quantiles[n1, j] * s1, quantiles[n2, k] * s2
                px = means[i, 0] + a * axes[0, first] + b * axes[0, second]
                py = means[i, 1] + a * axes[1, first] + b * axes[1, second]
                pz = means[i, 2] + a * axes[2, first] + b * axes[2, second]
                u = (frame[0, 0] * px + frame[0, 1] * py + frame[0, 2] * pz - low[0]) / step
                v = (frame[1, 0] * px + frame[1, 1] * py + frame[1, 2] * pz - low[1]) / step
                t = (frame[2, 0] * px + frame[2, 1] * py + frame[2, 2] * pz - low[2]) / step
                if 0 <= u < nx and 0 <= v < ny and 0 <= t < nz:
                    mass[int(u), int(v), int(t)] += value


@njit(nogil=True, cache=True, error_model="numpy")
def _travel(
    solid: NDArray[np.bool_], px: float, py: float, pz: float, dx: float, dy: float, dz: float, reach: float
) -> float:
    """How far along the unit vector (dx, dy, dz) from (px, py, pz), in voxels, the first solid voxel begins; `reach`
    where there is none before. The voxel of the start does not count. Amanatides and Woo (1987).
    """
    nx, ny, nz = solid.shape
    x, y, z = math.floor(px), math.floor(py), math.floor(pz)
    sx, sy, sz = (1 if dx > 0 else -1), (1 if dy > 0 else -1), (1 if dz > 0 else -1)
    far = 1e30
    wx, wy, wz = (
        (1 / abs(dx) if dx != 0 else far),
        (1 / abs(dy) if dy != 0 else far),
        (1 / abs(dz) if dz != 0 else far),
    )
    tx = ((x + 1 - px) if dx > 0 else (px - x)) * wx if dx != 0 else far
    ty = ((y + 1 - py) if dy > 0 else (py - y)) * wy if dy != 0 else far
    tz = ((z + 1 - pz) if dz > 0 else (pz - z)) * wz if dz != 0 else far
    while True:
        if tx <= ty and tx <= tz:
            t = tx
            x += sx
            tx += wx
        elif ty <= tz:
            t = ty
            y += sy
            ty += wy
        else:
            t = tz
            z += sz
            tz += wz
        if t >= reach or x < 0 or y < 0 or z < 0 or x >= nx or y >= ny or z >= nz:
            return reach
        if solid[x, y, z]:
            return t


@njit(nogil=True, cache=True, error_model="numpy")
def share_of_hits(solid: NDArray[np.bool_], voxels: I64, directions: F64, reach: float) -> F32:
    """[S]: the share of `directions` [D, 3] in which a ray from the middle of voxels [S, 3] ends on a solid voxel
    within `reach` voxels.
    """
    out = np.empty(len(voxels), np.float32)
    for i in range(len(voxels)):
        x, y, z = voxels[i, 0] + 0.5, voxels[i, 1] + 0.5, voxels[i, 2] + 0.5
        hits = 0
        for k in range(len(directions)):
            if _travel(solid, x, y, z, directions[k, 0], directions[k, 1], directions[k, 2], reach) < reach:
                hits += 1
        out[i] = hits / len(directions)
    return out


@njit(nogil=True, cache=True, error_model="numpy")
def in_sight(solid: NDArray[np.bool_], eye: F64, points: F64, slack: float) -> NDArray[np.bool_]:
    """[P]: whether the straight line from `eye` [3] to each of `points` [P, 3], all in voxels, meets no solid voxel
    before the last `slack` voxels.
    """
    out = np.zeros(len(points), np.bool_)
    for i in range(len(points)):
        dx, dy, dz = points[i, 0] - eye[0], points[i, 1] - eye[1], points[i, 2] - eye[2]
        length = math.sqrt(dx * dx + dy * dy + dz * dz)
        if length <= slack:
            out[i] = True
            continue
        reach = length - slack
        out[i] = _travel(solid, eye[0], eye[1], eye[2], dx / length, dy / length, dz / length, reach) >= reach
    return out


@njit(nogil=True, cache=True, error_model="numpy")
def open_side(solid: NDArray[np.bool_], points: F64, normals: F64, rays: F64, offset: float) -> F32:
    """[N]: how much further rays go on the side of the unit `normals` [N, 3] than on the other, in voxels.

    Rays [D, 3], given around the z axis, start `offset` voxels off `points` [N, 3] (in voxels) on either side. A ray
    that leaves the grid counts 0.
    """
    nx, ny, nz = solid.shape
    endless = float(nx + ny + nz)
    out = np.zeros(len(points), np.float32)
    for i in range(len(points)):
        n0, n1, n2 = normals[i, 0], normals[i, 1], normals[i, 2]
        a0, a1, a2 = (-n1, n0, 0.0) if abs(n2) < 0.9 else (0.0, -n2, n1)  # any direction in the surface
        length = math.sqrt(a0 * a0 + a1 * a1 + a2 * a2)
        if not length > 0:
            continue
        a0, a1, a2 = a0 / length, a1 / length, a2 / length
        b0, b1, b2 = n1 * a2 - n2 * a1, n2 * a0 - n0 * a2, n0 * a1 - n1 * a0
        total = 0.0
        for sign in (1.0, -1.0):
            x = points[i, 0] + sign * offset * n0
            y = points[i, 1] + sign * offset * n1
            z = points[i, 2] + sign * offset * n2
            if not (0 <= x < nx and 0 <= y < ny and 0 <= z < nz):
                continue
            for k in range(len(rays)):
                u, v, w = rays[k, 0], rays[k, 1], sign * rays[k, 2]
                dx, dy, dz = u * a0 + v * b0 + w * n0, u * a1 + v * b1 + w * n1, u * a2 + v * b2 + w * n2
                free = _travel(solid, x, y, z, dx, dy, dz, endless)
                if free < endless:
                    total += sign * free
        out[i] = total
    return out
