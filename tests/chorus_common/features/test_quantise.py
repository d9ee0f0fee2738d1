"""The quantiser: published levels, packing against a slow twin, fidelity that the design promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus_common.features.quantise import Bits, Quantiser, entropy_levels, normal_levels
from chorus_common.features.standardise import Moments, phi_s
from chorus_common.runtime.errors import ConfigError

ALL_BITS: tuple[Bits, ...] = (2, 3, 4, 8, "ecsq", "fp16")

#: Max 1960, table I (output levels y_i, positive half) and mean squared error
MAX_1960 = {
    2: ([0.4528, 1.510], 0.1175),
    3: ([0.2451, 0.7560, 1.344, 2.152], 0.03454),
    4: ([0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733], 0.009497),
}


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_levels_are_those_of_max(bits: int) -> None:
    levels, mse = MAX_1960[bits]
    found = np.array(normal_levels(bits)[0])
    np.testing.assert_allclose(found[len(levels) :], levels, rtol=5e-4)
    np.testing.assert_array_equal(found, -found[::-1])
    x = np.random.default_rng(0).standard_normal(400_000)
    nearest = found[np.abs(x[:, None] - found).argmin(1)]
    assert np.mean((x - nearest) ** 2) == pytest.approx(mse, rel=0.01)


def test_eight_bit_levels_satisfy_the_lloyd_max_conditions() -> None:
    """Each level is the mean of its interval, by quadrature rather than by the formula under test."""
    levels, thresholds = map(np.array, normal_levels(8))
    np.testing.assert_allclose(thresholds, (levels[1:] + levels[:-1]) / 2)
    edges = np.concatenate([[-9], thresholds, [9]])
    for level, low, high in zip(levels, edges, edges[1:]):
        x = np.linspace(low, high, 4001)
        pdf = np.exp(-x * x / 2)
        assert level == pytest.approx(np.trapezoid(x * pdf, x) / np.trapezoid(pdf, x), abs=3e-6)


def test_entropy_levels_are_optimal_for_their_cost() -> None:
    """Error + lambda * entropy is lower than that of any scaled version, and codes take about 3.3 bits."""
    levels, thresholds = map(np.array, entropy_levels())
    x = np.random.default_rng(1).standard_normal(400_000)

    def cost(scale: float) -> tuple[float, float]:
        codes = np.searchsorted(thresholds * scale, x)
        share = np.bincount(codes, minlength=16) / len(x)
        entropy = -np.sum(share[share > 0] * np.log2(share[share > 0]))
        means = np.bincount(codes, x, minlength=16) / np.maximum(np.bincount(codes, minlength=16), 1)
        return float(np.mean((x - means[codes]) ** 2) + 0.02 * entropy), float(entropy)

    best, entropy = cost(1.0)
    assert 3.2 < entropy < 3.4
    assert all(best < cost(scale)[0] for scale in (0.85, 0.95, 1.05, 1.15))
    assert (np.diff(levels) > 0).all()


def slow_encode(x: np.ndarray, quantiser: Quantiser) -> np.ndarray:
    """One token [C], plainly."""
    levels, thresholds = quantiser.tables
    rms = np.float32(1.0 / np.sqrt(np.mean(x.astype(np.float64) ** 2)))
    codes = [sum(bool(v * rms > np.float32(t)) for t in thresholds) for v in x]
    q = np.array([np.float32(levels[c]) for c in codes], dtype=np.float64)
    scale = np.float16(np.dot(x.astype(np.float64), q) / np.dot(q, q))
    text = "".join(format(c, f"0{quantiser.code_bits}b")[::-1] for c in codes)  # lowest bits first
    text += "0" * (-len(text) % 8)
    packed = [int(text[i : i + 8][::-1], 2) for i in range(0, len(text), 8)]
    return np.concatenate([np.frombuffer(scale.astype("<f2").tobytes(), np.uint8), np.array(packed, np.uint8)])


@pytest.mark.parametrize("bits", [2, 3, 4, 8, "ecsq"])
@pytest.mark.parametrize("channels", [1, 3, 8, 13])
def test_encode_equals_its_slow_twin(bits: Bits, channels: int) -> None:
    x = np.random.default_rng(2).standard_normal((20, channels)).astype(np.float32) * 3
    quantiser = Quantiser(bits)
    codes = quantiser.encode(x)
    np.testing.assert_array_equal(codes, np.stack([slow_encode(row, quantiser) for row in x]))


@pytest.mark.parametrize("bits", [2, 3, 4, 8, "ecsq"])
def test_the_table_of_candidates_equals_a_search(bits: Bits) -> None:
    """Values next to every threshold and far outside, in one token whose codes are searched for plainly."""
    quantiser = Quantiser(bits)
    thresholds = np.array(quantiser.tables[1], np.float32)
    near = [np.nextafter(thresholds, np.float32(side)) for side in (-9, 9)]
    x = np.concatenate([thresholds, *near, np.linspace(-12, 12, 9001)]).astype(np.float32)
    scaled = x * np.float32(1 / np.sqrt(np.mean(x.astype(np.float64) ** 2)))
    codes = np.searchsorted(thresholds, scaled)
    levels = np.array(quantiser.tables[0], np.float32)
    found = quantiser.decode(quantiser.encode(x[None]), len(x))[0]
    scale = found[len(x) // 2] / levels[codes[len(x) // 2]]
    np.testing.assert_allclose(found, levels[codes] * scale, rtol=1e-6)


@given(st.sampled_from(ALL_BITS), st.integers(1, 40), st.integers(0, 5), st.integers(0, 10**6))
def test_decode_of_encode_is_a_fixed_point(bits: Bits, channels: int, tokens: int, seed: int) -> None:
    """Shapes hold, decoding gives the scale times a level, and a decoded token stays close to its source."""
    x = np.random.default_rng(seed).standard_normal((tokens, channels)).astype(np.float32)
    quantiser = Quantiser(bits)
    codes = quantiser.encode(x)
    assert codes.shape == (tokens, quantiser.token_bytes(channels))
    assert codes.dtype == np.uint8
    back = quantiser.decode(codes, channels)
    assert back.shape == x.shape
    if bits == "fp16":
        np.testing.assert_array_equal(back, x.astype(np.float16).astype(np.float32))
    elif tokens:
        scale = codes[:, :2].copy().view("<f2").astype(np.float32)
        levels = np.array(quantiser.tables[0], np.float32)
        distance = np.abs(back[:, :, None] - scale[:, :, None] * levels).min(2)
        np.testing.assert_array_equal(distance, 0)
        assert (np.linalg.norm(back - x, axis=1) <= np.linalg.norm(x, axis=1) * 1.001).all()


@pytest.mark.parametrize("bits", ALL_BITS)
def test_any_number_of_threads_gives_the_same_bytes(bits: Bits) -> None:
    x = np.random.default_rng(3).standard_normal((7, 11, 24)).astype(np.float32)
    quantiser = Quantiser(bits)
    codes = quantiser.encode(x, threads=1)
    np.testing.assert_array_equal(codes, quantiser.encode(x, threads=3))
    np.testing.assert_array_equal(quantiser.decode(codes, 24, threads=1), quantiser.decode(codes, 24, threads=5))


def one_over_k(tokens: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """Tokens with a 1/k spectrum of variances in a random (but always the same) basis."""
    basis, _ = np.linalg.qr(np.random.default_rng(channels).standard_normal((channels, channels)))
    return (rng.standard_normal((tokens, channels)) * np.arange(1, channels + 1) ** -0.5) @ basis.T


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sum(a * b, -1) / np.sqrt(np.sum(a * a, -1) * np.sum(b * b, -1))


@pytest.mark.parametrize(
    ("bits", "per_token", "lifted"), [(4, 0.995, 0.999), (3, 0.982, 0.996), ("ecsq", 0.992, 0.998)]
)
def test_fidelity_on_a_one_over_k_spectrum(bits: Bits, per_token: float, lifted: float) -> None:
    """512 channels; lifted = mean over 12 views, each with noise of the same spectrum."""
    rng = np.random.default_rng(4)
    truth = one_over_k(300, 512, rng)
    views = truth + 0.7 * one_over_k(12 * 300, 512, rng).reshape(12, 300, 512)
    standardiser = phi_s(Moments.of(views))
    x = standardiser.forward(views)
    quantiser = Quantiser(bits)
    y = quantiser.decode(quantiser.encode(x), 512)
    assert cosine(x, y).mean() > per_token
    assert cosine(x.mean(0), y.mean(0)).mean() > lifted


def test_a_scale_per_token_pays_for_heavy_tails() -> None:
    """Token lengths that vary by a log-normal of 0.7: one scale for all loses several times more."""
    rng = np.random.default_rng(5)
    x = (rng.standard_normal((400, 256)) * rng.lognormal(0, 0.7, (400, 1))).astype(np.float32)
    x /= x.std()
    quantiser = Quantiser(4)
    ours = cosine(x, quantiser.decode(quantiser.encode(x), 256))
    levels, thresholds = map(np.array, quantiser.tables)
    one_scale = cosine(x, levels[np.searchsorted(thresholds, x)])
    assert 1 - ours.mean() < 0.5 * (1 - one_scale.mean())


def test_zero_and_tiny_tokens() -> None:
    x = np.zeros((3, 8), np.float32)
    x[1] = 1e-30
    x[2] = 1e-4
    for bits in ALL_BITS:
        back = Quantiser(bits).decode(Quantiser(bits).encode(x), 8)
        assert np.isfinite(back).all()
        np.testing.assert_array_equal(back[0], 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e6, -1e6])
@pytest.mark.parametrize("bits", ALL_BITS)
def test_values_without_a_code_are_refused(bits: Bits, value: float) -> None:
    x = np.ones((2, 4), np.float32)
    x[1, 2] = value
    with pytest.raises(ValueError, match="finite"):
        Quantiser(bits).encode(x)


def test_settings_are_validated() -> None:
    for bad in (1, 5, 16, "int8", "", None):
        with pytest.raises(ConfigError, match="bits per channel"):
            Quantiser(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="take 6 bytes"):
        Quantiser(4).decode(np.zeros((2, 5), np.uint8), 8)
