"""Hadamard matrices: rotations that spread every axis equally over all others.

PHI-S needs an orthogonal matrix whose entries all have magnitude 1/sqrt(n). Such matrices are known for n = 1, 2 and
many multiples of 4; two constructions and their Kronecker products cover every feature size in use (64 ... 2048):

- Sylvester, for powers of two: H(2n) = [[H, H], [H, -H]].
- Paley (1933): from the quadratic residues of a prime q. I: n = q + 1, q = 3 mod 4. II: n = 2 (q + 1), q = 1 mod 4.

Source: Ranzinger et al. 2024 (PHI-S), appendix on Hadamard matrices; the sign convention (a positive diagonal) is that
of RADIO examples/common/hadamard.py. Where nothing fits, a seeded random orthogonal matrix stands in and says so:
channel variances are then equal only in expectation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


class Rotation(NamedTuple):
    """`matrix` [n, n] f64, orthogonal. `exact`: all entries are +-1/sqrt(n); otherwise it is the random fallback.
    `construction`: how it was made.
    """

    matrix: F64
    exact: bool
    construction: str


def hadamard(n: int, *, seed: int = 0) -> Rotation:
    """An orthogonal matrix [n, n] with entries +-1/sqrt(n) and a non-negative diagonal, or the seeded fallback for
    sizes without one.

    `seed` is used by the fallback alone.
    """
    if n < 1:
        raise ValueError(f"a rotation needs at least one channel, got {n}")
    signs, construction = _signs(n)
    if signs is None:
        q, r = np.linalg.qr(np.random.default_rng([seed, n]).standard_normal((n, n)))
        return Rotation(
            _positive_diagonal(q * np.where(np.diag(r) < 0, -1.0, 1.0)), False, f"random orthogonal, seed {seed}"
        )
    return Rotation(_positive_diagonal(signs / np.sqrt(n)), True, construction)


def _signs(n: int) -> tuple[NDArray[np.int8] | None, str]:
    """A matrix of +-1 with orthogonal rows and how it was made: Sylvester for powers of two, otherwise the largest
    Paley factor.
    """
    if n & (n - 1) == 0:
        return _sylvester(n.bit_length() - 1), f"Sylvester({n})"
    power, rest = 0, n
    while True:
        paley, name = _paley(rest)
        if paley is not None:
            label = f"Sylvester({2**power}) x {name}" if power else name
            return np.kron(_sylvester(power), paley).astype(np.int8), label
        if rest % 2:
            return None, ""
        power, rest = power + 1, rest // 2


def _sylvester(power: int) -> NDArray[np.int8]:
    h = np.ones((1, 1), dtype=np.int8)
    for _ in range(power):
        h = np.block([[h, h], [h, -h]])
    return h


def _paley(n: int) -> tuple[NDArray[np.int8] | None, str]:
    if n % 4 == 0 and _is_prime(n - 1):  # n = 0 mod 4, so q = n - 1 is 3 mod 4
        q = _jacobsthal(n - 1)
        s = np.block([[np.zeros((1, 1)), np.ones((1, n - 1))], [-np.ones((n - 1, 1)), q]])
        return (s + np.eye(n)).astype(np.int8), f"Paley I({n})"
    if n % 4 == 0 and n // 2 - 1 > 1 and (n // 2 - 1) % 4 == 1 and _is_prime(n // 2 - 1):
        m = n // 2
        c = np.block([[np.zeros((1, 1)), np.ones((1, m - 1))], [np.ones((m - 1, 1)), _jacobsthal(m - 1)]])
        h = np.kron(c, [[1, 1], [1, -1]]) + np.kron(np.eye(m), [[1, -1], [-1, -1]])
        return h.astype(np.int8), f"Paley II({n})"
    return None, ""


def _jacobsthal(q: int) -> NDArray[np.float64]:
    """Q[i, j] = Legendre symbol of (i - j) modulo the prime q."""
    legendre = np.full(q, -1.0)
    legendre[np.arange(1, q, dtype=np.int64) ** 2 % q] = 1.0
    legendre[0] = 0.0
    i = np.arange(q)
    return legendre[(i[:, None] - i[None, :]) % q]


def _is_prime(q: int) -> bool:
    return q > 1 and all(q % d for d in range(2, int(q**0.5) + 1))


def _positive_diagonal(matrix: F64) -> F64:
    """Negate the rows whose diagonal entry is negative: fixes the sign that the constructions leave open."""
    return matrix * np.where(np.diag(matrix) < 0, -1.0, 1.0)[:, None]
