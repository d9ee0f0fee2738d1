"""Predictions carried from the Gaussians that have one to places that have none."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.spatial import cKDTree

I32 = NDArray[np.int32]

#: Queries per pass: bounds the neighbour table at 2^16 x k entries.
_PASS = 1 << 16


def nearest_fill(means: NDArray[np.floating], predictions: I32) -> I32:
    """Give every Gaussian without a prediction (-1) that of the nearest one with a prediction.

    means [N, 3] m, predictions [N] i32; returned as a new array, unchanged where nothing predicts.
    """
    known = np.flatnonzero(predictions >= 0)
    missing = np.flatnonzero(predictions < 0)
    filled = predictions.copy()
    if len(known) and len(missing):
        _, nearest = cKDTree(means[known]).query(means[missing])
        filled[missing] = predictions[known[nearest]]
    return filled


def neighbour_vote(
    means: NDArray[np.floating], predictions: I32, points: NDArray[np.floating], n_classes: int, *, k: int = 25
) -> I32:
    """Class of every point by majority among its k nearest predicting Gaussians; ties go to the lowest class.

    As SceneSplat (pointcept/utils/misc.py), with the neighbours taken among Gaussians that predict.

    Args:
        means [N, 3] m and predictions [N] i32 (-1 = none) of the Gaussians; points [M, 3] m in the same frame.

    Returns [M] i32; all -1 where no Gaussian predicts.
    """
    known = np.flatnonzero(predictions >= 0)
    result = np.full(len(points), -1, dtype=np.int32)
    if len(known) == 0:
        return result
    k = min(k, len(known))
    tree, classes = cKDTree(means[known]), predictions[known].astype(np.int64)
    for start in range(0, len(points), _PASS):
        rows = slice(start, start + _PASS)
        _, nearest = tree.query(points[rows], k=k)
        result[rows] = _majority(classes[np.asarray(nearest).reshape(-1, k)], n_classes)
    return result


@njit(cache=True, nogil=True)
def _majority(classes, n_classes):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Most frequent class [M] i32 of each row [M, k]; the lowest of several."""
    m, k = classes.shape
    winner = np.empty(m, np.int32)
    votes = np.zeros(n_classes, np.int64)
    for i in range(m):
        best, best_votes = -1, 0
        for j in range(k):
            votes[classes[i, j]] += 1
        for j in range(k):
            c = classes[i, j]
            if votes[c] > best_votes or (votes[c] == best_votes and c < best):
                best, best_votes = c, votes[c]
        for j in range(k):
            votes[classes[i, j]] = 0
        winner[i] = best
    return winner
