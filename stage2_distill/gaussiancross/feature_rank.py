"""Effective rank: how many directions a set of features really uses. Collapsed features have one or two."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def effective_rank(features: NDArray[np.floating]) -> float:
    """exp of the entropy of the normalised singular values of centred features [N, D] (Roy & Vetterli, EUSIPCO 2007).

    Between 1 (all on a line) and min(N - 1, D) (all directions alike); 0 for features that are all equal.
    """
    x = np.asarray(features, dtype=np.float64)
    x = x - x.mean(axis=0)
    values = np.sqrt(np.clip(np.linalg.eigvalsh(x.T @ x), 0, None))
    # eigenvalues of the product carry rounding of the order of their largest times machine epsilon
    values = values[values > values.max(initial=0.0) * 1e-7]
    if values.size == 0:
        return 0.0
    share = values / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))
