"""Store standardised features in 2, 3, 4 or 8 bits per channel.

PHI-S (standardise.py) gives all channels the same variance and, being a rotation by a Hadamard matrix, makes them nearly normal. One scalar
quantiser fitted to the unit normal (Max 1960, "Quantizing for minimum distortion"; the Lloyd-Max conditions) then fits every channel. Tokens are
not alike, though: their lengths differ by a factor of several, so each token is divided by its own root mean square first, which is kept as fp16.

Layout of one token of C channels: 2 bytes of scale (fp16, little endian), then ceil(C * bits / 8) bytes of codes, lowest bits first. "fp16" stores
the values themselves, 2 C bytes, and no scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast, get_args

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_banded
from scipy.special import ndtr, ndtri

from chorus_common.errors import ConfigError
from chorus_common.threads import default_threads, run_tasks, split_range

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

Bits = Literal[2, 3, 4, 8, "fp16"]
_SCALE_BYTES = 2
_FP16_MAX = 65504.0


@lru_cache
def normal_levels(bits: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The 2^bits levels and 2^bits - 1 thresholds that minimise the mean squared error for a unit normal.

    Solves the Lloyd-Max conditions (each level is the mean of its interval, each threshold the midpoint of its levels) by Newton's method: the
    Jacobian is tridiagonal, and the start from the companding density (proportional to pdf^(1/3), a normal of variance 3) is close.
    Levels are rounded to 1e-6 so that every machine gets the same numbers.
    """
    k = 2**bits
    levels = np.sqrt(3.0) * ndtri((np.arange(k) + 0.5) / k)
    for _ in range(100):
        thresholds = (levels[1:] + levels[:-1]) / 2
        low, high = np.concatenate([[-np.inf], thresholds]), np.concatenate([thresholds, [np.inf]])
        pdf_low, pdf_high = _normal_pdf(low), _normal_pdf(high)
        mass = np.where(low > 0, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))  # the side without cancellation
        mean = (pdf_low - pdf_high) / mass
        residual = levels - mean
        if np.abs(residual).max() < 1e-13:
            break
        d_low = np.where(np.isfinite(low), pdf_low * (mean - np.nan_to_num(low)) / mass, 0.0)  # d mean / d low
        d_high = np.where(np.isfinite(high), pdf_high * (np.nan_to_num(high) - mean) / mass, 0.0)
        banded = np.zeros((3, k))
        banded[0, 1:] = -d_high[:-1] / 2
        banded[1] = 1 - (d_low + d_high) / 2
        banded[2, :-1] = -d_low[1:] / 2
        levels = levels - solve_banded((1, 1), banded, residual)
    levels = np.round((levels - levels[::-1]) / 2, 6)  # exactly odd
    thresholds = (levels[1:] + levels[:-1]) / 2
    return tuple(levels.tolist()), tuple(thresholds.tolist())


def _normal_pdf(x: F64) -> F64:
    return np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)


@dataclass(frozen=True)
class Quantiser:
    """Encoder and decoder for one setting of `bits`. Stateless; the same input gives the same bytes for any number of threads."""

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
        return _SCALE_BYTES + (channels * self.bits + 7) // 8

    @property
    def levels(self) -> tuple[float, ...]:
        """The reconstruction levels for a unit normal; empty for "fp16"."""
        return () if self.bits == "fp16" else normal_levels(self.bits)[0]

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
            bits = self.bits
            levels, thresholds = (np.asarray(v, dtype=np.float32) for v in normal_levels(bits))
            scales = np.empty(len(tokens), dtype=np.float32)
            _run(
                len(tokens),
                threads,
                lambda a, b: _encode(tokens[a:b], scales[a:b], codes[a:b], thresholds, levels, bits),
            )
            codes[:, :_SCALE_BYTES] = scales.astype("<f2")[:, None].view(np.uint8)
        return codes.reshape(*x.shape[:-1], -1)

    def decode(self, codes: U8, channels: int, *, threads: int | None = None) -> F32:
        """Features [..., channels] f32 of codes [..., token_bytes(channels)]."""
        if codes.shape[-1] != self.token_bytes(channels):
            raise ValueError(
                f"{channels} channels at {self.bits} bits take {self.token_bytes(channels)} bytes, got {codes.shape[-1]}"
            )
        flat = np.ascontiguousarray(codes, dtype=np.uint8).reshape(-1, codes.shape[-1])
        if self.bits == "fp16":
            return flat.view("<f2").astype(np.float32).reshape(*codes.shape[:-1], channels)
        bits = self.bits
        scales = np.ascontiguousarray(flat[:, :_SCALE_BYTES]).view("<f2")[:, 0].astype(np.float32)
        levels = np.asarray(normal_levels(bits)[0], dtype=np.float32)
        out = np.empty((len(flat), channels), dtype=np.float32)
        _run(len(flat), threads, lambda a, b: _decode(flat[a:b], scales[a:b], out[a:b], levels, bits))
        return out.reshape(*codes.shape[:-1], channels)


def parse_bits(value: object) -> Bits:
    """`value` as a setting of bits per channel; text such as "4" is accepted. Raises ConfigError."""
    return Quantiser(cast(Bits, int(value) if isinstance(value, str) and value.isdigit() else value)).bits


def _run(n: int, threads: int | None, task) -> None:  # type: ignore[no-untyped-def]
    parts = split_range(n, default_threads() if threads is None else threads)
    run_tasks([lambda a=a, b=b: task(a, b) for a, b in parts], len(parts))  # type: ignore[misc]


@numba.njit(nogil=True, cache=True)
def _encode(x, scales, codes, thresholds, levels, bits):  # type: ignore[no-untyped-def]
    n, channels = x.shape
    row = np.empty(channels, np.uint8)
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
            code = 0
            step = 1 << (bits - 1)
            while step > 0:  # binary search: the number of thresholds below v
                code += step if v > thresholds[code + step - 1] else 0
                step >>= 1
            row[c] = code
            q = np.float64(levels[code])
            dot += np.float64(x[t, c]) * q
            norm += q * q
        # the scale that minimises the token's squared error, given its codes; never negative, because codes follow the signs
        scales[t] = dot / norm if norm > 0 else 0.0
        _pack(row, codes[t], bits)


@numba.njit(nogil=True, cache=True)
def _pack(row, out, bits):  # type: ignore[no-untyped-def]
    at = 2
    held = 0
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
        held = 0
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
