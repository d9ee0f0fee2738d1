"""Real spherical harmonics of view-dependent colour, in the convention of 3D Gaussian Splatting, and how they turn.

Basis: degrees 1 to 4 with the Condon-Shortley phase, as in graphdeco-inria/gaussian-splatting utils/sh_utils.py
(degree 1 is -y, z, -x). glTF's KHR_gaussian_splatting and .spz use the same order and signs.
"""

from __future__ import annotations

from math import factorial, pi, sqrt

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#: degree -> coefficients per channel beyond the constant one.
SH_SIZES = {0: 0, 1: 3, 2: 8, 3: 15, 4: 24}


def sh_degree(count: int) -> int:
    """The degree that `count` coefficients per channel belong to. Raises ValueError where there is none."""
    for degree, size in SH_SIZES.items():
        if size == count:
            return degree
    raise ValueError(f"{count} harmonics are no whole degree (3, 8, 15 or 24)")


def sh_basis(directions: NDArray[np.floating], degree: int) -> F64:
    """Values [N, K] of the harmonics of degrees 1 to `degree` at unit `directions` [N, 3]."""
    x, y, z = np.asarray(directions, np.float64).T
    values = []
    for band in range(1, degree + 1):
        for order in range(-band, band + 1):
            m = abs(order)
            # cos and sin of m times the azimuth, times sin(polar angle)^m: the real and imaginary part of (x + iy)^m
            turn = (x + 1j * y) ** m
            norm = sqrt((2 * band + 1) / (4 * pi) * factorial(band - m) / factorial(band + m))
            value = norm * _legendre(band, m, z)
            if order:
                value = value * sqrt(2) * (turn.real if order > 0 else turn.imag)
            values.append(value * (-1) ** m)
    return np.stack(values, axis=1) if values else np.zeros((len(x), 0))


def _legendre(band: int, m: int, z: F64) -> F64:
    """Associated Legendre polynomial P_band^m(z) / (1 - z^2)^(m/2), without the Condon-Shortley phase."""
    below = np.zeros_like(z)
    here = np.full_like(z, float(np.prod(np.arange(1, 2 * m, 2))))
    for degree in range(m + 1, band + 1):
        below, here = here, ((2 * degree - 1) * z * here - (degree + m - 1) * below) / (degree - m)
    return here


def turned_harmonics(harmonics: F32, turn: NDArray[np.floating]) -> F32:
    """Harmonics [N, K, 3] of a scene after its space was turned or mirrored by the orthogonal matrix `turn` [3, 3].

    A Gaussian looks from direction turn @ d as it looked from d before: Y(turn @ d) h' = Y(d) h, solved band by band
    over directions spread on the sphere.
    """
    degree = sh_degree(harmonics.shape[1])
    i = np.arange(64) + 0.5
    polar, azimuth = np.arccos(1 - 2 * i / 64), pi * (1 + sqrt(5)) * i
    directions = np.stack([np.cos(azimuth) * np.sin(polar), np.sin(azimuth) * np.sin(polar), np.cos(polar)], axis=1)
    old, new = sh_basis(directions, degree), sh_basis(directions @ np.asarray(turn, np.float64).T, degree)
    out = np.empty_like(harmonics)
    for band in range(1, degree + 1):
        rows = slice(SH_SIZES[band - 1], SH_SIZES[band])
        matrix = np.linalg.lstsq(new[:, rows], old[:, rows], rcond=None)[0]
        matrix[np.abs(matrix) < 1e-12] = 0.0  # axes that are only swapped or mirrored keep every bit
        out[:, rows] = np.einsum("ij,njc->nic", matrix, harmonics[:, rows].astype(np.float64))
    return out
