"""Which views of a scene to show: those that see much of what is not wall, floor or ceiling, and each something new."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chorus_common.labels import FOREGROUND_EXCLUDED
from chorus_common.lifting import LiftingIndex

F64 = NDArray[np.float64]


def class_shares(index: LiftingIndex, labels: NDArray[np.integer], n_classes: int) -> F64:
    """[V, K] share of each view's blending weight that falls on Gaussians of each class. labels [N] in matrix-row
    order.
    """
    rows = np.repeat(np.arange(len(index)), np.diff(index.indptr))
    view, label = index.columns // index.grid.cells, labels[rows]
    known = label >= 0
    keys = view[known].astype(np.int64) * n_classes + label[known]
    weight = np.bincount(keys, weights=index.weights[known], minlength=index.n_views * n_classes)
    total = np.bincount(view, weights=index.weights, minlength=index.n_views)
    return weight.reshape(index.n_views, n_classes) / np.maximum(total, 1e-12)[:, None]


def informative_views(shares: F64, class_names: Sequence[str], n: int) -> list[int]:
    """The `n` views to show, best first: greedily the most foreground, where a class that was shown before counts a
    quarter.

    shares [V, K] of `class_shares`. A class counts by the square root of its share: many small things beat one that
    fills the picture.
    """
    gain = np.sqrt(shares) * np.array([name not in FOREGROUND_EXCLUDED for name in class_names])
    chosen: list[int] = []
    worth = np.ones(shares.shape[1])
    for _ in range(min(n, len(shares))):
        score = gain @ worth
        score[chosen] = -1.0
        best = int(score.argmax())
        chosen.append(best)
        worth[shares[best] > 0.01] = 0.25
    return chosen


def spread_views(n_views: int, n: int) -> list[int]:
    """`n` views at even distances, for scenes without ground truth."""
    return sorted({int(x) for x in np.linspace(0, n_views - 1, min(n, n_views)).round()}) if n_views and n else []
