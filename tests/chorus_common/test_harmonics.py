"""Harmonics: the published table of constants, and turning against looking from the other side."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from chorus_common.harmonics import SH_SIZES, sh_basis, sh_degree, turned_harmonics


def directions(n: int, seed: int = 0) -> np.ndarray:
    d = np.random.default_rng(seed).normal(size=(n, 3))
    return d / np.linalg.norm(d, axis=1, keepdims=True)


def test_basis_has_the_constants_of_3dgs() -> None:
    d = directions(50)
    x, y, z = d.T
    xx, yy, zz = x * x, y * y, z * z
    table = [
        -0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x,
        1.0925484305920792 * x * y, -1.0925484305920792 * y * z, 0.31539156525252005 * (2 * zz - xx - yy),
        -1.0925484305920792 * x * z, 0.5462742152960396 * (xx - yy),
        -0.5900435899266435 * y * (3 * xx - yy), 2.890611442640554 * x * y * z,
        -0.4570457994644658 * y * (4 * zz - xx - yy), 0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
        -0.4570457994644658 * x * (4 * zz - xx - yy), 1.445305721320277 * z * (xx - yy),
        -0.5900435899266435 * x * (xx - 3 * yy),
    ]  # fmt: skip
    np.testing.assert_allclose(sh_basis(d, 3), np.stack(table, axis=1), atol=1e-12)


def test_basis_is_orthonormal() -> None:
    i = np.arange(4000) + 0.5
    polar, azimuth = np.arccos(1 - 2 * i / 4000), np.pi * (1 + 5**0.5) * i
    d = np.stack([np.cos(azimuth) * np.sin(polar), np.sin(azimuth) * np.sin(polar), np.cos(polar)], axis=1)
    values = sh_basis(d, 4)
    np.testing.assert_allclose(values.T @ values * 4 * np.pi / 4000, np.eye(24), atol=5e-3)


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
@pytest.mark.parametrize("mirror", [False, True])
def test_a_turned_scene_looks_from_the_turned_side_as_before(degree: int, mirror: bool) -> None:
    rng = np.random.default_rng(degree)
    turn = Rotation.random(random_state=degree).as_matrix() * (-1 if mirror else 1)
    h = rng.normal(size=(5, SH_SIZES[degree], 3)).astype(np.float32)
    d = directions(30, seed=7)
    before = np.einsum("dk,nkc->ndc", sh_basis(d, degree), h)
    after = np.einsum("dk,nkc->ndc", sh_basis(d @ turn.T, degree), turned_harmonics(h, turn))
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_mirrored_axes_only_change_signs() -> None:
    h = np.random.default_rng(0).normal(size=(4, 15, 3)).astype(np.float32)
    flip = np.diag([1.0, -1.0, -1.0])
    turned = turned_harmonics(h, flip)
    np.testing.assert_array_equal(np.abs(turned), np.abs(h))
    np.testing.assert_array_equal(turned_harmonics(turned, flip), h)


def test_degrees_of_counts() -> None:
    assert [sh_degree(count) for count in (0, 3, 8, 15, 24)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="no whole degree"):
        sh_degree(7)
