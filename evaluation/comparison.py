"""Two runs compared on the scenes that both scored: differences with confidence intervals, by a paired bootstrap.

Scenes are drawn with replacement, the same draw for both runs, and every metric is computed anew from the counts of the
drawn scenes: what varies is the choice of scenes, which is what a benchmark's split is. A mean over per-scene scores
would be another metric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.labels import FOREGROUND_EXCLUDED
from chorus_common.runtime.errors import ConfigError
from evaluation.metrics.retrieval import FIGURES
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
    """What both runs have of mIoU, f-mIoU and mAcc; AP, AP50 and AP25; retrieval figures, as means over perturbations
    and recall@1 of each. b against a.

    Queries of a gallery that is the whole split search all of it in every draw: only queries are drawn.

    Raises ConfigError where the runs share no scene, or differ in label space, rules or a scene's ground truth.
    """
    if a.class_names != b.class_names:
        raise ConfigError("the two results have different label spaces")
    found = []
    for kind, statistic in _STATISTICS.items():
        mine, theirs = getattr(a, kind).get(row_a, {}), getattr(b, kind).get(row_b, {})
        names = sorted(mine.keys() & theirs.keys())
        if not names:
            continue
        if a.meta() != b.meta():
            raise ConfigError(
                "the two results were made with different classes of things, smallest regions or galleries"
            )
        _check_truth(a, row_a, b, row_b, names, kind)
        count = min(draws, 200) if kind == "instances" else draws
        rng = np.random.default_rng(seed)
        picks = np.concatenate([np.arange(len(names))[None], rng.integers(0, len(names), (count, len(names)))])
        values_a, values_b = statistic(a, row_a, names)(picks), statistic(b, row_b, names)(picks)
        for i, metric in enumerate(_metrics(kind, mine[names[0]])):
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


def _retrieval(scores: SceneScores, row: str, names: Sequence[str]) -> Callable[[I64], F64]:
    """picks [D, S] of scenes -> [D, 4 + P]: figures as the mean over P perturbations, then recall@1 under each."""
    scenes = [scores.retrieval[row][name] for name in names]
    order = list(scenes[0])
    queries = np.array([[held[p].n for p in order] for held in scenes], dtype=np.float64)  # [S, P]
    sums = np.array([[held[p].sums for p in order] for held in scenes])  # [S, P, 4]

    def values(picks: I64) -> F64:
        times = np.stack([np.bincount(p, minlength=len(names)) for p in picks]).astype(np.float64)  # [D, S]
        with np.errstate(invalid="ignore"):
            figures = np.tensordot(times, sums, axes=1) / (times @ queries)[..., None]  # [D, P, 4]
        return np.concatenate([figures.mean(axis=1), figures[..., 0]], axis=1)

    return values


_STATISTICS = {"semantic": _semantic, "instances": _instances, "retrieval": _retrieval}


def _metrics(kind: str, scene: Any) -> tuple[str, ...]:
    """Names of what the statistic of `kind` gives; scene: what one scene holds of it."""
    if kind == "retrieval":
        return (*FIGURES, *(f"{FIGURES[0]} {perturbation}" for perturbation in scene))
    return ("miou", "f_miou", "macc") if kind == "semantic" else ("ap", "ap50", "ap25")


def _check_truth(a: SceneScores, row_a: str, b: SceneScores, row_b: str, names: Sequence[str], kind: str) -> None:
    """Raise ConfigError where the runs saw another ground truth of a scene, or asked other queries."""
    truths: dict[str, Callable[[Any], Any]] = {
        "semantic": lambda matrix: matrix.truth.tolist(),
        "instances": lambda matches: (matches.gt_class.tolist(), matches.gt_size.tolist()),
        "retrieval": lambda held: [(perturbation, part.n) for perturbation, part in held.items()],
    }
    truth = truths[kind]
    for name in names:
        if truth(getattr(a, kind)[row_a][name]) != truth(getattr(b, kind)[row_b][name]):
            raise ConfigError(
                f"scene {name} was scored on another ground truth in the two results; compare like with like"
            )
