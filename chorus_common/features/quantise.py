"""Store standardised features in 2, 3, 4 or 8 bits per channel.

PHI-S (standardise.py) gives all channels the same variance and, being a rotation by a Hadamard matrix, makes them
nearly normal. One scalar quantiser fitted to the unit normal then fits every channel:

- 2, 3, 4, 8: the levels of least squared error (Max 1960, "Quantizing for minimum distortion").
- "ecsq": 16 levels that trade error against the entropy of the codes (Chou, Lookabaugh & Gray 1989,
  "Entropy-constrained vector quantization", in one dimension). Codes take 4 bits here and about 3.3 once the cache
  has entropy-coded them: 14 % fewer bytes than 4 bits, for 0.003 of cosine.
- "fp16": the values themselves.

Tokens are not alike, though: their lengths differ by a factor of several, so each token is divided by its own root
mean square first, and a scale is kept as fp16. Layout of one token of C channels: 2 bytes of scale (fp16, little
endian), then ceil(C * bits / 8) bytes of codes, lowest bits first; "fp16" has 2 C bytes and no scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_banded
from scipy.special import ndtr, ndtri

from chorus_common.runtime.errors import ConfigError
from chorus_common.runtime.threads import default_threads, run_tasks, split_range

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

Bits = Literal[2, 3, 4, 8, "ecsq", "fp16"]
#: squared error that one bit of entropy may save, in units of the variance; gives 3.3 bits per channel
_ECSQ_LAMBDA = 0.02
_SCALE_BYTES = 2
_FP16_MAX = 65504.0
_BINS, _REACH = 2048, 6.0


@lru_cache
def normal_levels(bits: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The 2^bits levels and 2^bits - 1 thresholds that minimise the mean squared error for a unit normal.

    Solves the Lloyd-Max conditions (each level is the mean of its interval, each threshold the midpoint of its levels)
    by Newton's method: the Jacobian is tridiagonal, and the start from the companding density (proportional to
    pdf^(1/3), a normal of variance 3) is close. Rounded to 1e-6, so that every machine gets the same numbers.
    """
    k = 2**bits
    levels = np.sqrt(3.0) * ndtri((np.arange(k) + 0.5) / k)
    for _ in range(100):
        thresholds = (levels[1:] + levels[:-1]) / 2
        mass, mean, low, high = _intervals(thresholds)
        residual = levels - mean
        if np.abs(residual).max() < 1e-13:
            break
        d_low = _normal_pdf(low) * (mean - np.maximum(low, -1e9)) / mass  # d mean / d low; the pdf is 0 at infinity
        d_high = _normal_pdf(high) * (np.minimum(high, 1e9) - mean) / mass
        banded = np.zeros((3, k))
        banded[0, 1:] = -d_high[:-1] / 2
        banded[1] = 1 - (d_low + d_high) / 2
        banded[2, :-1] = -d_low[1:] / 2
        levels = levels - solve_banded((1, 1), banded, residual)
    levels = np.round((levels - levels[::-1]) / 2, 6)  # exactly odd
    return tuple(levels.tolist()), tuple(((levels[1:] + levels[:-1]) / 2).tolist())


@lru_cache
def entropy_levels() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """16 levels and 15 thresholds that minimise squared error + _ECSQ_LAMBDA * entropy (bits) for a unit normal.

    Lloyd's iteration; a threshold is where coding with either neighbour costs the same, rarer levels costing more bits.
    """
    levels, mass = np.linspace(-3.2, 3.2, 16), np.full(16, 1 / 16)
    for _ in range(5000):
        bits = -np.log2(mass)
        thresholds = (levels[1:] + levels[:-1]) / 2 + _ECSQ_LAMBDA * np.diff(bits) / (2 * np.diff(levels))
        mass, mean, _, _ = _intervals(thresholds)
        moved, levels = float(np.abs(mean - levels).max()), mean
        if moved < 1e-13:
            break
    levels, thresholds = (np.round((v - v[::-1]) / 2, 6) for v in (levels, thresholds))
    return tuple(levels.tolist()), tuple(thresholds.tolist())


def _intervals(thresholds: F64) -> tuple[F64, F64, F64, F64]:
    """Probability and mean of a unit normal within each interval between thresholds, and the intervals' ends."""
    low, high = np.concatenate([[-np.inf], thresholds]), np.concatenate([thresholds, [np.inf]])
    mass = np.where(low > 0, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))  # the side without cancellation
    return mass, (_normal_pdf(low) - _normal_pdf(high)) / mass, low, high


def _normal_pdf(x: F64) -> F64:
    return np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)


@dataclass(frozen=True)
class Quantiser:
    """Encoder and decoder for one setting of `bits`. Stateless; the same input gives the same bytes for any number of
    threads.
    """

    bits: Bits

    def __post_init__(self) -> None:
        if self.bits not in get_args(Bits):
            raise ConfigError(
                f"bits per channel must be one of {', '.join(map(str, get_args(Bits)))}, got {self.bits!r}"
            )

    def token_bytes(self, channels: int) -> int:
        """Bytes of one token of `channels` channels."""
        if self.bits == "fp16":
            return 2 * channels
        return _SCALE_BYTES + (channels * self.code_bits + 7) // 8

    @property
    def code_bits(self) -> int:
        """Bits of one code as packed here, before any entropy coding; 16 for "fp16"."""
        return {"ecsq": 4, "fp16": 16}[self.bits] if isinstance(self.bits, str) else self.bits

    @property
    def tables(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Levels and thresholds for a unit normal; empty for "fp16"."""
        if self.bits == "fp16":
            return (), ()
        return entropy_levels() if self.bits == "ecsq" else normal_levels(self.bits)

    def encode(self, x: NDArray[np.floating], *, threads: int | None = None) -> U8:
        """Codes [..., token_bytes(C)] u8 of features [..., C] (any float type).

        Raises ValueError for values that are not finite or too large for fp16 (65504).
        """
        x = np.ascontiguousarray(x, dtype=np.float32)
        channels = x.shape[-1]
        tokens = x.reshape(-1, channels)
        peak = float(max(tokens.max(), -tokens.min())) if tokens.size else 0.0
        if not peak <= _FP16_MAX:  # also catches NaN
            raise ValueError(f"features must be finite and below {_FP16_MAX:.0f}, found a peak of {peak}")
        codes = np.empty((len(tokens), self.token_bytes(channels)), dtype=np.uint8)
        if self.bits == "fp16":
            codes[:] = tokens.astype("<f2").view(np.uint8)
        else:
            levels, thresholds = (np.asarray(v, dtype=np.float32) for v in self.tables)
            first = _first_candidates(thresholds)
            thresholds = np.append(thresholds, np.float32(np.inf))
            scales = np.empty(len(tokens), dtype=np.float32)
            _run(
                len(tokens),
                threads,
                lambda a, b: _encode(tokens[a:b], scales[a:b], codes[a:b], thresholds, first, levels, self.code_bits),
            )
            codes[:, :_SCALE_BYTES] = scales.astype("<f2")[:, None].view(np.uint8)
        return codes.reshape(*x.shape[:-1], codes.shape[1])

    def decode(self, codes: U8, channels: int, *, threads: int | None = None) -> F32:
        """Features [..., channels] f32 of codes [..., token_bytes(channels)]."""
        if codes.shape[-1] != self.token_bytes(channels):
            raise ValueError(
                f"{channels} channels at {self.bits} bits take {self.token_bytes(channels)} bytes, got "
                f"{codes.shape[-1]}"
            )
        flat = np.ascontiguousarray(codes, dtype=np.uint8).reshape(-1, codes.shape[-1])
        if self.bits == "fp16":
            return flat.view("<f2").astype(np.float32).reshape(*codes.shape[:-1], channels)
        scales = np.ascontiguousarray(flat[:, :_SCALE_BYTES]).view("<f2")[:, 0].astype(np.float32)
        levels = np.asarray(self.tables[0], dtype=np.float32)
        out = np.empty((len(flat), channels), dtype=np.float32)
        _run(len(flat), threads, lambda a, b: _decode(flat[a:b], scales[a:b], out[a:b], levels, self.code_bits))
        return out.reshape(*codes.shape[:-1], channels)


def _first_candidates(thresholds: F32) -> U8:
    """For each of _BINS bins over [-_REACH, _REACH]: how many thresholds lie below it.

    Thresholds are further apart than a bin with its margins (the closest pair, at 8 bits, by 0.0169), so that one
    comparison with the next threshold gives the code. The margin covers the rounding of a value's bin.
    """
    margin = 1e-3
    edges = np.linspace(-_REACH, _REACH, _BINS, endpoint=False)
    assert np.diff(thresholds).min(initial=1.0) > 2 * _REACH / _BINS + 2 * margin
    return np.searchsorted(thresholds, edges - margin).astype(np.uint8)


def _run(n: int, threads: int | None, task) -> None:  # type: ignore[no-untyped-def]
    parts = split_range(n, default_threads() if threads is None else threads)
    run_tasks([lambda a=a, b=b: task(a, b) for a, b in parts], len(parts))  # type: ignore[misc]


@numba.njit(nogil=True, cache=True)
def _encode(x, scales, codes, thresholds, first, levels, bits):  # type: ignore[no-untyped-def]
    n, channels = x.shape
    row = np.empty(channels, np.uint8)
    reach, per_unit = np.float32(_REACH), np.float32(_BINS / (2 * _REACH))
    for t in range(n):
        energy = 0.0
        for c in range(channels):
            energy += np.float64(x[t, c]) * np.float64(x[t, c])
        rms = np.sqrt(energy / channels)
        inverse = np.float32(1.0 / rms) if rms > 1e-30 else np.float32(0.0)
        dot = 0.0
        norm = 0.0
        for c in range(channels):
            v = x[t, c] * inverse
            spot = min(max(int((v + reach) * per_unit), 0), len(first) - 1)
            code = np.int64(first[spot])
            if v > thresholds[code]:
                code += 1
            row[c] = code
            q = np.float64(levels[code])
            dot += np.float64(x[t, c]) * q
            norm += q * q
        # the scale that minimises the token's squared error, given its codes; never negative, because codes follow the
        # signs
        scales[t] = dot / norm if norm > 0 else 0.0
        _pack(row, codes[t], bits)


@numba.njit(nogil=True, cache=True)
def _pack(row, out, bits):  # type: ignore[no-untyped-def]
    at = 2
    held = np.int64(0)
    n_held = 0
    for c in range(len(row)):
        held |= np.int64(row[c]) << n_held
        n_held += bits
        while n_held >= 8:
            out[at] = held & 255
            at += 1
            held >>= 8
            n_held -= 8
    if n_held > 0:
        out[at] = held & 255


@numba.njit(nogil=True, cache=True)
def _decode(codes, scales, out, levels, bits):  # type: ignore[no-untyped-def]
    n, channels = out.shape
    mask = (1 << bits) - 1
    scaled = np.empty(len(levels), np.float32)
    for t in range(n):
        for k in range(len(levels)):
            scaled[k] = levels[k] * scales[t]
        held = np.int64(0)
        n_held = 0
        at = 2
        for c in range(channels):
            if n_held < bits:
                held |= np.int64(codes[t, at]) << n_held
                at += 1
                n_held += 8
            out[t, c] = scaled[held & mask]
            held >>= bits
            n_held -= bits
