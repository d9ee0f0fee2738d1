"""How much quantisation costs, measured while a scene is written and kept in its cache's attributes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from chorus_common.lifting import CellHits

F32 = NDArray[np.float32]


class Fidelity:
    """Cosines between exact and decoded standardised tokens of one teacher, per token and after lifting.

    Lifting is linear, so the lifted features of a seeded sample of Gaussians are summed up view by view: no more than one
    batch of exact features is ever held. Cosines are taken in the standardised space, where no common mean flatters them.
    """

    def __init__(self, n_gaussians: int, channels: int, sample: int, seed: int) -> None:
        rng = np.random.default_rng([seed, n_gaussians])
        chosen = np.sort(rng.choice(n_gaussians, min(sample, n_gaussians), replace=False))
        self._slot = np.full(n_gaussians, -1, dtype=np.int64)
        self._slot[chosen] = np.arange(len(chosen))
        self._exact = np.zeros((len(chosen), channels), dtype=np.float64)
        self._decoded = np.zeros_like(self._exact)
        self._weight = np.zeros(len(chosen))
        self._cosine_sum, self._tokens = 0.0, 0

    def add(self, hits: CellHits, exact: F32, decoded: F32) -> None:
        """One view: its hits, and its standardised tokens [cells, C] before and after the quantiser."""
        cosine = row_cosine(exact, decoded)
        self._cosine_sum += float(cosine.sum(dtype=np.float64))
        self._tokens += len(cosine)
        slot = self._slot[hits.gaussian_ids]
        seen = slot >= 0
        shape = (len(self._weight), len(exact))
        weights = sparse.csr_matrix((hits.weights[seen], (slot[seen], hits.cells[seen])), shape=shape)
        self._exact += weights @ exact
        self._decoded += weights @ decoded
        self._weight += np.asarray(weights.sum(axis=1)).ravel()

    def result(self) -> dict[str, float]:
        """token_cosine (mean), lifted_cosine (mean) and lifted_cosine_p01 (1st percentile) over sampled Gaussians with
        evidence; the lifted ones are absent where the sample holds none."""
        result = {"token_cosine": self._cosine_sum / max(self._tokens, 1)}
        seen = self._weight > 0
        if seen.any():
            cosine = row_cosine(self._exact[seen], self._decoded[seen])
            result["lifted_cosine"] = float(cosine.mean())
            result["lifted_cosine_p01"] = float(np.quantile(cosine, 0.01))
        return {key: round(value, 6) for key, value in result.items()}


def row_cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.floating]:
    """Cosine of each row of a and b [K, C]; 1 where both are zero, 0 where one is."""
    dot = np.einsum("kc,kc->k", a, b)
    norms = np.sqrt(np.einsum("kc,kc->k", a, a) * np.einsum("kc,kc->k", b, b))
    both_zero = (norms == 0) & ~a.any(axis=1) & ~b.any(axis=1)
    return np.where(both_zero, 1.0, dot / np.where(norms > 0, norms, 1))
