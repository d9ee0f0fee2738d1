"""Zero-shot semantic segmentation: the class of a Gaussian is the class name whose text embedding is nearest to its
feature.

All rows of a result are scored on the same Gaussians: those with ground truth. A lifted teacher knows nothing about
Gaussians that no view sees; the row `lifted_teacher` gives them the prediction of the nearest Gaussian with evidence,
so that the comparison with the student is not won by coverage alone, and the row `lifted_teacher_seen_only` leaves them
without a prediction, which counts as wrong.

Ground truth enters `ConfusionMatrix.add` and nothing before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chorus_common.cache import SceneCache
from chorus_common.config import Config
from chorus_common.errors import CacheError, one_line
from evaluation.features import PASS, FeatureSource, SceneFeatures
from evaluation.metrics.semantic import DEFINITIONS, ConfusionMatrix
from evaluation.neighbours import nearest_fill, neighbour_vote
from evaluation.point_truth import read_point_truth
from evaluation.scenes import EvalScene, Selection

I32 = NDArray[np.int32]
F32 = NDArray[np.float32]


class ZeroShotConfig(Config):
    """How zero-shot segmentation is asked and scored.

    prompts, synonyms: see evaluation.prompts. target: score the Gaussians of the cache, or the points of a separate
    labelled cloud beside the source, which take the majority of their `k` nearest Gaussians.
    """

    prompts: str = "rooms"
    synonyms: bool = False
    target: Literal["gaussians", "points"] = "gaussians"
    k: int = 25


@dataclass(frozen=True)
class Contender:
    """A row of the result: where features come from, and whether Gaussians without one take their nearest neighbour's
    prediction.
    """

    source: FeatureSource
    fill: bool = False


def classify(features: SceneFeatures, n: int, text: F32) -> I32:
    """Class [N] of the greatest cosine between a Gaussian's feature and the rows of `text` [K, C]; -1 where the feature
    is zero.

    Ties go to the lowest class. The cosine needs no division: the length of a feature is the same for all classes.
    """
    classes = np.full(n, -1, dtype=np.int32)
    for start in range(0, n, PASS):
        rows = features.rows(start, min(n, start + PASS))
        known = rows.any(axis=1)
        classes[start : start + len(rows)][known] = (rows[known] @ text.T).argmax(axis=1)
    return classes


def zero_shot(
    selection: Selection,
    class_names: tuple[str, ...],
    text: F32,
    contenders: Mapping[str, Contender],
    config: ZeroShotConfig,
) -> dict[str, Any]:
    """Evaluate every contender on every scene.

    Args:
        selection: labelled scenes; scenes that turn out damaged or without ground truth move to its excluded ones.
        text: [K, C] f32 unit rows, one per class name.

    Returns {"rows": {name: scores under our definition, published definitions, confusion matrix}, "per_scene": {scene:
    {name: ...}}}.
    """
    total = {name: ConfusionMatrix(class_names) for name in contenders}
    per_scene: dict[str, Any] = {}
    for scene in list(selection.scenes):
        try:
            cache = scene.open()
            matrices, seen = _evaluate_scene(scene, cache, class_names, text, contenders, config)
        except CacheError as error:
            selection.leave_out(scene, one_line(error), failed=True)
            continue
        if matrices is None:
            selection.leave_out(scene, "no ground truth")
            continue
        for name, matrix in matrices.items():
            total[name].merge(matrix)
        per_scene[scene.name] = {
            "n_scored": int(next(iter(matrices.values())).truth.sum()),
            "seen_share": seen,
            **{
                name: {key: matrix.scores().as_dict()[key] for key in ("miou", "f_miou", "macc")}
                for name, matrix in matrices.items()
            },
        }
    if not per_scene:
        raise CacheError(f"no scene with ground truth to evaluate ({'; '.join(list(selection.excluded.values())[:3])})")
    return {
        "rows": {name: score_row(matrix) for name, matrix in total.items()},
        "per_scene": per_scene,
        "excluded": selection.excluded,
    }


def score_row(matrix: ConfusionMatrix) -> dict[str, Any]:
    """Our definition in full, the published ones in short, and the matrix they all come from."""
    published = {name: matrix.scores(name).as_dict() for name in DEFINITIONS if name != "chorus"}
    short = ("miou", "f_miou", "macc", "f_macc", "overall_accuracy")
    return {
        **matrix.scores().as_dict(),
        "published_definitions": {name: {key: values[key] for key in short} for name, values in published.items()},
        "confusion": matrix.as_dict(),
    }


def _evaluate_scene(
    scene: EvalScene,
    cache: SceneCache,
    class_names: tuple[str, ...],
    text: F32,
    contenders: Mapping[str, Contender],
    config: ZeroShotConfig,
) -> tuple[dict[str, ConfusionMatrix] | None, float]:
    """Confusion matrix per contender, or None without ground truth; and the share of scored Gaussians that some view
    sees.
    """
    gaussians = cache.scene()
    points = None
    if config.target == "points":
        points = read_point_truth(scene.source, cache.attributes.label_space, scene.name)
        truth = None if points is None else points.labels
    else:
        truth = gaussians.labels
    if truth is None or not (truth >= 0).any():
        return None, 0.0
    matrices = {}
    asked: dict[int, I32] = {}  # contenders that share a source differ in the fill alone
    for name, contender in contenders.items():
        if id(contender.source) not in asked:
            features = contender.source.open(cache, gaussians, scene.name)
            asked[id(contender.source)] = classify(features, len(gaussians), text)
        prediction = asked[id(contender.source)]
        if contender.fill:
            prediction = nearest_fill(gaussians.means, prediction)
        if points is not None:
            prediction = neighbour_vote(gaussians.means, prediction, points.coord, len(class_names), k=config.k)
        matrices[name] = ConfusionMatrix(class_names).add(truth, prediction, who=scene.name)
    weight, _ = cache.evidence()
    scored = np.ones(len(gaussians), bool) if points is not None else truth >= 0
    return matrices, float((weight[scored] > 0).mean())
