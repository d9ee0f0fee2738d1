"""PHI-S: unit channels, isotropic error, exact inverse, streamed statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus_common.features.hadamard import hadamard
from chorus_common.features.standardise import Moments, PhiSStandardiser, phi_s
from chorus_common.runtime.errors import CacheError


def features(tokens: int = 4000, channels: int = 24, seed: int = 0) -> np.ndarray:
    """Correlated channels of very different variance, far from the origin."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((channels, channels)) * np.arange(1, channels + 1)[:, None] ** -1.0
    return (rng.standard_normal((tokens, channels)) @ mix * 5 + rng.normal(0, 20, channels)).astype(np.float32)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.integers(0, 10**6))
def test_streamed_moments_equal_those_of_all_tokens(sizes: list[int], seed: int) -> None:
    x = np.random.default_rng(seed).normal(100, 3, (sum(sizes), 5))
    streamed = Moments.empty(5)
    for part in np.split(x, np.cumsum(sizes)[:-1]):
        streamed = streamed.update(part)
    assert streamed.count == len(x)
    if len(x) > 1:
        np.testing.assert_allclose(streamed.mean, x.mean(0), rtol=1e-12)
        np.testing.assert_allclose(streamed.covariance, np.cov(x.T, bias=True), rtol=1e-9, atol=1e-9)


def test_merging_is_associative_up_to_rounding_and_deterministic() -> None:
    a, b, c = (Moments.of(features(50, 6, seed)) for seed in range(3))
    left, right = a.merge(b).merge(c), a.merge(b.merge(c))
    np.testing.assert_allclose(left.scatter, right.scatter, rtol=1e-12)
    np.testing.assert_array_equal(left.scatter, a.merge(b).merge(c).scatter)
    with pytest.raises(ValueError, match="cannot be merged"):
        a.merge(Moments.empty(7))


def test_every_channel_gets_mean_zero_and_variance_one() -> None:
    x = features()
    standardiser = phi_s(Moments.of(x))
    y = standardiser.forward(x).astype(np.float64)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(y.var(0), 1, atol=1e-4)
    np.testing.assert_allclose(standardiser.rotation @ standardiser.rotation.T, np.eye(24), atol=1e-12)
    assert (np.diff(standardiser.eigenvalues) <= 0).all()


def test_forward_equals_the_published_formula() -> None:
    """y' = (1 / phi) H U^T (y - mu), in fp64 and step by step."""
    x = features().astype(np.float64)
    moments = Moments.of(x)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    u = vectors[:, np.argsort(values)[::-1]]
    u = u * np.where(np.diag(u) < 0, -1, 1)
    expected = (x - x.mean(0)) @ u @ hadamard(24).matrix.T / np.sqrt(values.mean())
    np.testing.assert_allclose(phi_s(moments).forward(x), expected, atol=2e-4)


def test_inverse_is_exact_and_errors_are_isotropic() -> None:
    x = features()
    standardiser = phi_s(Moments.of(x))
    y = standardiser.forward(x)
    np.testing.assert_allclose(standardiser.inverse(y), x, atol=2e-4)
    for direction in np.random.default_rng(1).standard_normal((5, 24)):
        moved = standardiser.inverse(y[:10] + direction) - standardiser.inverse(y[:10])
        np.testing.assert_allclose((moved**2).sum(1), standardiser.phi**2 * (direction**2).sum(), rtol=1e-3)


def test_any_leading_shape_and_float_type() -> None:
    x = features(12)
    standardiser = phi_s(Moments.of(features()))
    y = standardiser.forward(x.reshape(2, 3, 2, 24).astype(np.float16))
    assert y.shape == (2, 3, 2, 24)
    assert y.dtype == np.float32
    assert standardiser.inverse(y).shape == y.shape


def test_saved_standardisers_are_equal_and_so_are_their_bytes(tmp_path: Path) -> None:
    standardiser = phi_s(Moments.of(features()), spec="open_clip:X:Y", teacher_fingerprint="abc")
    standardiser.save(tmp_path / "a.safetensors")
    standardiser.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    back = PhiSStandardiser.load(tmp_path / "a.safetensors")
    assert (back.spec, back.teacher_fingerprint, back.phi, back.construction) == (
        standardiser.spec, standardiser.teacher_fingerprint, standardiser.phi, standardiser.construction,
    )  # fmt: skip
    for key in ("mean", "rotation", "eigenvalues"):
        np.testing.assert_array_equal(getattr(back, key), getattr(standardiser, key))
    assert back.fingerprint == standardiser.fingerprint
    other = phi_s(Moments.of(features(seed=1)), spec="open_clip:X:Y", teacher_fingerprint="abc")
    assert back.fingerprint != other.fingerprint


def test_damaged_standardisers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    with pytest.raises(CacheError, match=r"t\.safetensors: no such PHI-S standardiser"):
        PhiSStandardiser.load(path)
    phi_s(Moments.of(features()), spec="t").save(path)
    sound = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(sound), 60):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(CacheError, match=r"t\.safetensors"):
            PhiSStandardiser.load(path)
    for cut in (0, 7, 100, len(sound) - 1):
        path.write_bytes(sound[:cut])
        with pytest.raises(CacheError):
            PhiSStandardiser.load(path)


def test_features_without_variance_or_with_nan_are_refused() -> None:
    with pytest.raises(CacheError, match="no variance"):
        phi_s(Moments.of(np.ones((10, 4))))
    with pytest.raises(CacheError, match="no variance"):
        phi_s(Moments.empty(4))
    with pytest.raises(CacheError, match="not finite"):
        Moments.of(np.array([[1.0, np.nan]]))
