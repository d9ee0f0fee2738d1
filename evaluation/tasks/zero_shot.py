"""Zero-shot semantic segmentation: the class of a Gaussian is the class name whose text embedding is nearest to its
feature.

All rows of a result are scored on the same places: those with ground truth. A lifted teacher knows nothing about
Gaussians that no view sees; the row `lifted_teacher` gives them the prediction of the nearest Gaussian with visibility,
so that the comparison with the student is not won by coverage alone, and the row `lifted_teacher_seen_only` leaves them
without a prediction, which counts as wrong.

Ground truth enters `ConfusionMatrix.add` and nothing before it. The one exception is asked for by name and marked in
the result: with `oracle_instances` every row has a twin whose predictions were voted within ground-truth instances, as
the released SceneSplat tester does silently (pointcept/engines/test.py:504).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.config import Config
from evaluation.benchmarks import class_groups
from evaluation.features import PASS, AskedFeatures, FeatureSource, SceneFeatures
from evaluation.metrics.semantic import DEFINITIONS, ConfusionMatrix
from evaluation.neighbours import nearest_fill
from evaluation.predictions.folder import PredictionFolder
from evaluation.run_scenes import NoGroundTruthError, PartialResults, SceneResult, run_scenes
from evaluation.scene_scores import SceneScores, sparse_counts
from evaluation.scenes import EvalScene, LoadedScene, Selection
from evaluation.targets import EvalTarget, TargetKind, open_target

I32 = NDArray[np.int32]
F32 = NDArray[np.float32]

#: What the row of a prediction that was voted within ground-truth instances is called.
ORACLE_SUFFIX = " + oracle instances"


class ZeroShotConfig(Config):
    """How zero-shot segmentation is asked and scored.

    prompts, synonyms: see evaluation.prompts. target: score the scene's Gaussians, or the points of a separate labelled
    cloud beside the source, which take the majority of their `k` nearest Gaussians. oracle_instances: add the rows in
    which ground-truth instances vote. label_space: score against the labels of this space; "" = the scenes' own.
    """

    prompts: str = "rooms"
    synonyms: bool = False
    target: TargetKind = "gaussians"
    k: int = 25
    oracle_instances: bool = False
    label_space: str = ""


@dataclass(frozen=True)
class Method:
    """A row of the result: where features come from, and whether Gaussians without one take their nearest neighbour's
    prediction.
    """

    source: FeatureSource
    fill: bool = False


def methods(sources: Mapping[str, FeatureSource]) -> dict[str, Method]:
    """The rows of `evaluation.sources.text_sources`: each source as it is, and the lifted teacher with and without its
    gaps filled.
    """
    rows = {name: Method(source, fill=name == "lifted_teacher") for name, source in sources.items()}
    if "lifted_teacher" in sources:
        rows["lifted_teacher_seen_only"] = Method(sources["lifted_teacher"])
    return rows


def classify(features: SceneFeatures, n: int, text: F32) -> I32:
    """Class [N] of the greatest cosine between a Gaussian's feature and the rows of `text` [K, C]; -1 where the feature
    is zero.

    Ties go to the lowest class. The cosine needs no division: the length of a feature is the same for all classes.
    """
    if isinstance(features, AskedFeatures):
        asked = features.ask(text, lambda scores: scores.argmax(axis=1), cosines=False)
        if asked is not None:
            return asked.astype(np.int32)
    classes = np.full(n, -1, dtype=np.int32)
    for start in range(0, n, PASS):
        rows = features.rows(start, min(n, start + PASS))
        known = rows.any(axis=1)
        classes[start : start + len(rows)][known] = (rows[known] @ text.T).argmax(axis=1)
    return classes


def vote_in_instances(predictions: I32, instances: NDArray[np.integer], n_classes: int) -> I32:
    """Give all places [M] of one instance the most frequent predicted class among them (ties: the lowest class).

    Places without an instance (< 0) keep their prediction, and so do instances that nothing is predicted for. This uses
    ground truth: it is an oracle.
    """
    voted = predictions.copy()
    inside = np.flatnonzero(instances >= 0)
    ids, row = np.unique(instances[inside], return_inverse=True)
    predicted = predictions[inside] >= 0
    keys = row[predicted].astype(np.int64) * n_classes + predictions[inside][predicted]
    votes = np.bincount(keys, minlength=len(ids) * n_classes).reshape(len(ids), n_classes)  # [I, K]
    winner = np.where(votes.any(axis=1), votes.argmax(axis=1), -1).astype(np.int32)
    voted[inside] = winner[row]
    return voted


@dataclass(frozen=True)
class ZeroShotJob:
    """Confusion counts of every method on one scene; writes the predictions where it is told to."""

    class_names: tuple[str, ...]
    text: F32
    methods: Mapping[str, Method]
    config: ZeroShotConfig
    predictions: PredictionFolder | None = None

    def __call__(self, where: EvalScene) -> SceneResult:
        scene = where.load(self.config.label_space)
        space = self.config.label_space or scene.gaussians.label_space
        target = open_target(scene, self.config.target, space, k=self.config.k)
        if not target.has_truth and self.predictions is None:
            raise NoGroundTruthError(f"no ground truth of {space}")
        counts: dict[str, list[list[int]]] = {}
        for name, prediction in self._predictions(scene, target).items():
            if self.predictions is not None:
                self.predictions.semantic(name, target, prediction)
            if target.labels is not None and target.has_truth:
                matrix = ConfusionMatrix(self.class_names).add(target.labels, prediction, who=scene.name)
                counts[name] = sparse_counts(matrix)
        return {"counts": counts, "seen_share": _seen_share(scene, target)}

    def _predictions(self, scene: LoadedScene, target: EvalTarget) -> dict[str, I32]:
        """[M] classes of the target's places by row name."""
        found: dict[str, I32] = {}
        asked: dict[int, I32] = {}  # methods that share a source differ in the fill alone
        for name, method in self.methods.items():
            key = id(method.source)
            if key not in asked:
                asked[key] = classify(method.source.open(scene), len(scene.gaussians), self.text)
            prediction = asked[key]
            if method.fill:
                prediction = nearest_fill(scene.gaussians.means, prediction)
            found[name] = target.classes(prediction, len(self.class_names))
            if self.config.oracle_instances:
                if target.instances is None:
                    raise NoGroundTruthError("no ground-truth instances for --oracle-instances")
                found[name + ORACLE_SUFFIX] = vote_in_instances(found[name], target.instances, len(self.class_names))
        return found


def zero_shot(
    selection: Selection,
    class_names: tuple[str, ...],
    text: F32,
    methods: Mapping[str, Method],
    config: ZeroShotConfig,
    *,
    workers: int = 1,
    partial: PartialResults | None = None,
    predictions: PredictionFolder | None = None,
) -> tuple[dict[str, Any], SceneScores]:
    """Evaluate every method on every scene.

    Args:
        selection: scenes; those that turn out damaged or without ground truth move to its excluded ones.
        text: [K, C] f32 unit rows, one per class name.
        workers: processes; they change no number. partial: where finished scenes wait, should this be interrupted.
        predictions: write them, for scenes without ground truth too.

    Returns {"rows": {name: scores under our definition, published definitions, confusion matrix, "oracle"},
    "per_scene": {scene: {name: ...}}, "excluded": {scene: reason}} and the counts per scene.
    """
    job = ZeroShotJob(class_names, text, methods, config, predictions)
    found = run_scenes(selection, job, label="zero-shot", workers=workers, partial=partial)
    scores = SceneScores(class_names, groups=class_groups(config.label_space))
    for scene, scene_result in found.items():
        if not scene_result["counts"]:
            selection.excluded[scene] = "no ground truth: predictions written, not scored"
        for name, entries in scene_result["counts"].items():
            scores.semantic.setdefault(name, {})[scene] = scores.matrix(entries)
    per_scene = {
        scene: {
            "n_scored": int(next(held[scene] for held in scores.semantic.values()).truth.sum()),
            "seen_share": found[scene]["seen_share"],
            **rows,
        }
        for scene, rows in scores.per_scene().items()
    }
    body = {
        "rows": {n: {"oracle": n.endswith(ORACLE_SUFFIX), **score_row(scores.total(n))} for n in scores.semantic},
        "per_scene": per_scene,
        "excluded": selection.excluded,
    }
    return body, scores


def score_row(matrix: ConfusionMatrix) -> dict[str, Any]:
    """Our definition in full, the published ones in short, and the matrix they all come from."""
    published = {name: matrix.scores(name).as_dict() for name in DEFINITIONS if name != "chorus"}
    short = ("miou", "f_miou", "macc", "f_macc", "overall_accuracy")
    return {
        **matrix.scores().as_dict(),
        "published_definitions": {name: {key: values[key] for key in short} for name, values in published.items()},
        "confusion": matrix.as_dict(),
    }


def _seen_share(scene: LoadedScene, target: EvalTarget) -> float | None:
    """Share of the scored Gaussians that some view sees (of all Gaussians where points are scored); None without a
    cache.
    """
    if scene.cache is None:
        return None
    weight, _ = scene.cache.visibility()
    if target.points or target.labels is None:
        return float((weight > 0).mean())
    return float((weight[target.labels >= 0] > 0).mean())
