"""Two runs compared on the scenes that both scored: differences with confidence intervals, by a paired bootstrap.

Scenes are drawn with replacement, the same draw for both runs, and every metric is computed anew from the counts of the
drawn scenes: what varies is the choice of scenes, which is what a benchmark's split is. A mean over per-scene scores
would be another metric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chorus_common.errors import ConfigError
from chorus_common.labels import FOREGROUND_EXCLUDED
from evaluation.scene_scores import SceneScores

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Draws per pass of the semantic metrics: bounds their memory at draws x 3 classes.
_PASS = 256


@dataclass(frozen=True)
class Difference:
    """One metric of two runs a and b: values over all scenes, b - a, and the interval that holds `level` of the draws.

    better: share of the draws in which b beats a (ties count half).
    """

    metric: str
    a: float
    b: float
    low: float
    high: float
    better: float
    level: float
    n_scenes: int

    @property
    def difference(self) -> float:
        return self.b - self.a

    @property
    def decided(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def compare(
    a: SceneScores, row_a: str, b: SceneScores, row_b: str, *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> list[Difference]:
    """mIoU, f-mIoU and mAcc, and AP, AP50, AP25 where both runs have instances; b against a.

    Raises ConfigError where the runs share no scene, or differ in label space or in a scene's ground truth.
    """
    if a.class_names != b.class_names:
        raise ConfigError("the two results have different label spaces")
    found = []
    for kind, statistic in (("semantic", _semantic), ("instances", _instances)):
        mine, theirs = getattr(a, kind).get(row_a, {}), getattr(b, kind).get(row_b, {})
        names = sorted(mine.keys() & theirs.keys())
        if not names:
            continue
        _check_truth(a, row_a, b, row_b, names, kind)
        count = draws if kind == "semantic" else min(draws, 200)
        rng = np.random.default_rng(seed)
        picks = np.concatenate([np.arange(len(names))[None], rng.integers(0, len(names), (count, len(names)))])
        values_a, values_b = statistic(a, row_a, names)(picks), statistic(b, row_b, names)(picks)
        metrics = ("miou", "f_miou", "macc") if kind == "semantic" else ("ap", "ap50", "ap25")
        for i, metric in enumerate(metrics):
            found.append(_difference(metric, values_a[:, i], values_b[:, i], level, len(names)))
    if not found:
        raise ConfigError(f"the results share no scene of rows '{row_a}' and '{row_b}'")
    return found


def _difference(metric: str, a: F64, b: F64, level: float, n_scenes: int) -> Difference:
    """Row 0 of both is the whole set of scenes, the others are draws; draws without a value are left out."""
    delta = (b - a)[1:]
    delta = delta[~np.isnan(delta)]
    low, high = np.quantile(delta, [(1 - level) / 2, (1 + level) / 2]) if len(delta) else (np.nan, np.nan)
    better = float((delta > 0).mean() + 0.5 * (delta == 0).mean()) if len(delta) else float("nan")
    return Difference(metric, float(a[0]), float(b[0]), float(low), float(high), better, level, n_scenes)


def _semantic(scores: SceneScores, row: str, names: Sequence[str]) -> Callable[[I64], F64]:
    """picks [D, S] of scenes -> (mIoU, f-mIoU, mAcc) [D, 3] under our definition (metrics.semantic.chorus)."""
    matrices = [scores.semantic[row][name] for name in names]
    margins = np.stack([np.stack([m.correct, m.truth, m.predicted]) for m in matrices]).astype(np.float64)  # [S, 3, K]
    foreground = np.array([name not in FOREGROUND_EXCLUDED for name in scores.class_names])

    def values(picks: I64) -> F64:
        out = np.empty((len(picks), 3))
        for start in range(0, len(picks), _PASS):
            part = picks[start : start + _PASS]
            times = np.stack([np.bincount(p, minlength=len(names)) for p in part]).astype(np.float64)  # [D, S]
            correct, truth, predicted = np.moveaxis(np.tensordot(times, margins, axes=1), 1, 0)
            present = truth > 0
            with np.errstate(invalid="ignore", divide="ignore"):
                iou = np.where(present, correct / (truth + predicted - correct), np.nan)
                accuracy = np.where(present, correct / truth, np.nan)
            for i, table in enumerate((iou, np.where(foreground, iou, np.nan), accuracy)):
                known = ~np.isnan(table)
                total = np.where(known, table, 0).sum(axis=1)
                with np.errstate(invalid="ignore"):
                    out[start : start + len(part), i] = total / known.sum(axis=1)
        return out

    return values


def _instances(scores: SceneScores, row: str, names: Sequence[str]) -> Callable[[I64], F64]:
    """picks [D, S] of scenes -> (AP, AP50, AP25) [D, 3]: the official AP over the drawn scenes, repeats included."""

    def values(picks: I64) -> F64:
        out = np.empty((len(picks), 3))
        for d, pick in enumerate(picks):
            table = scores.evaluator(row, [names[i] for i in pick]).average_precision().per_class
            known = ~np.isnan(table)
            with np.errstate(invalid="ignore"):
                out[d] = np.where(known, table, 0).sum(axis=0) / known.sum(axis=0)
        return out

    return values


def _check_truth(a: SceneScores, row_a: str, b: SceneScores, row_b: str, names: Sequence[str], kind: str) -> None:
    """Raise ConfigError where the runs saw another ground truth of a scene."""
    for name in names:
        if kind == "semantic":
            same = np.array_equal(a.semantic[row_a][name].truth, b.semantic[row_b][name].truth)
        else:
            same = np.array_equal(a.instances[row_a][name].gt_size, b.instances[row_b][name].gt_size)
        if not same:
            raise ConfigError(
                f"scene {name} was scored on another ground truth in the two results; compare like with like"
            )
