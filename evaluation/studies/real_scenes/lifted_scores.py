"""Class scores per Gaussian of several scans against their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from evaluation.metrics.semantic import ConfusionMatrix
from evaluation.neighbours import nearest_fill

F32 = NDArray[np.float32]

#: Gaussians between two that count for the area under the curve.
EVERY = 10
#: Afterwards, over all scans: as they are, or every query's scores from their mean, in units of their deviation.
DECISIONS = ("", ", standardised per query")


@dataclass(frozen=True, eq=False)
class LabelledScenes:
    """Names of K classes, and per scan the classes [N] of the Gaussians (-1 = unknown) and their centres [N, 3] m."""

    class_names: tuple[str, ...]
    labels: Sequence[NDArray[np.int32]]
    means: Sequence[F32]


def score_lifted(parts: Sequence[F32], scenes: LabelledScenes) -> dict[str, dict[str, Any]]:
    """Per decision the scores of a confusion matrix and the mean area under the ROC curve ("auc").

    parts: per scan scores [N, K], NaN where no view sees a Gaussian; it then has the class of the nearest that is seen.
    """
    whole = np.concatenate(parts)
    middle, spread = np.nanmean(whole, axis=0), np.nanstd(whole, axis=0)
    truth, known = np.concatenate(scenes.labels)[::EVERY], ~np.isnan(whole[::EVERY, 0])
    areas = [area_under_curve(whole[::EVERY][known, k], truth[known] == k) for k in range(len(scenes.class_names))]
    rows = {}
    for decision in DECISIONS:
        matrix = ConfusionMatrix(scenes.class_names)
        for own, labels, places in zip(parts, scenes.labels, scenes.means):
            asked = (own - middle) / spread if decision else own
            seen = ~np.isnan(asked[:, 0])
            classes = np.where(seen, np.nan_to_num(asked).argmax(axis=1), -1).astype(np.int32)
            matrix.add(labels, nearest_fill(places, classes))
        rows[decision] = {**matrix.scores().as_dict(), "auc": float(np.nanmean(areas))}
    return rows


def lifted_mean(sums: F32, weight: F32) -> F32:
    """Scores [N, K] of what `LiftingIndex.lift` gives: the mean, NaN where no view sees a Gaussian."""
    return (sums / np.where(weight > 0, weight, np.nan)[:, None]).astype(np.float32)


def area_under_curve(scores: F32, inside: NDArray[np.bool_]) -> float:
    """Share of (inside, outside) pairs that the scores [n] order rightly; ties count half; NaN for an empty side."""
    n, m = int(inside.sum()), int((~inside).sum())
    if not n or not m:
        return float("nan")
    return float((rankdata(scores)[inside].sum() - n * (n + 1) / 2) / (n * m))
