"""How much quantisation costs, measured while a scene is written and kept in its cache's attributes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from chorus_common.lifting import CellHits

F32 = NDArray[np.float32]


class Fidelity:
    """Cosine between lifted features before and after the quantiser, for one teacher on a seeded sample of Gaussians.

    Lifting is linear, so both sums grow view by view and no more than one batch of exact features is ever held. Cosines
    are taken in the standardised space, where no common mean flatters them. Lifting weights are exact on both sides:
    what storing them costs is in the cache's attributes `dropped_weight` and `weight_error`.
    """

    def __init__(self, n_gaussians: int, channels: int, sample: int, seed: int) -> None:
        rng = np.random.default_rng([seed, n_gaussians])
        chosen = np.sort(rng.choice(n_gaussians, min(sample, n_gaussians), replace=False))
        self._slot = np.full(n_gaussians, -1, dtype=np.int64)
        self._slot[chosen] = np.arange(len(chosen))
        self._exact = np.zeros((len(chosen), channels), dtype=np.float64)
        self._stored = np.zeros_like(self._exact)
        self._weight = np.zeros(len(chosen))

    def add(self, hits: CellHits, exact: F32, stored: F32) -> None:
        """One view: its hits, and its standardised tokens [cells, C] before and after the quantiser."""
        slot = self._slot[hits.gaussian_ids]
        seen = slot >= 0
        shape, at = (len(self._weight), len(exact)), (slot[seen], hits.cells[seen])
        weights = sparse.csr_matrix((hits.weights[seen], at), shape=shape)
        self._exact += weights @ exact
        self._stored += weights @ stored
        self._weight += np.asarray(weights.sum(axis=1)).ravel()

    def result(self) -> dict[str, float]:
        """lifted_cosine (mean) and lifted_cosine_p01 (1st percentile) over the sampled Gaussians that some view sees;
        nothing where no view sees any.
        """
        seen = self._weight > 0
        if not seen.any():
            return {}
        cosine = row_cosine(self._exact[seen], self._stored[seen])
        return {"lifted_cosine": float(cosine.mean()), "lifted_cosine_p01": float(np.quantile(cosine, 0.01))}


def row_cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.floating]:
    """Cosine of each row of a and b [K, C]; 1 where both are zero, 0 where one is."""
    dot = np.einsum("kc,kc->k", a, b)
    norms = np.sqrt(np.einsum("kc,kc->k", a, a) * np.einsum("kc,kc->k", b, b))
    both_zero = (norms == 0) & ~a.any(axis=1) & ~b.any(axis=1)
    return np.where(both_zero, 1.0, dot / np.where(norms > 0, norms, 1))
