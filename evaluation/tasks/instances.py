"""Open-vocabulary instance segmentation: class-agnostic proposals, named by their pooled features.

A proposal's feature is the mean of the unit features of its Gaussians; its class is the class name with the greatest
cosine, its confidence the proposal's score times the softmax probability of that class (temperature `temperature`, over
all classes of the label space). Proposals whose class the benchmark does not ask for (wall, floor) are dropped, as they
are in the ground truth. Scored by ScanNet's official rules (evaluation.metrics.instance). No public code evaluates
this; the rules are ours, the metric is the benchmark's. OpenMask3D (Takmaz et al. 2023) pools pictures of the masks
instead, and gives all predictions the same confidence.

Ground truth enters the metric, and proposals that say so (`GroundTruthProposals`): these make a row that is marked as
oracle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse

from chorus_common.runtime.config import Config
from evaluation.benchmarks import class_groups, thing_classes
from evaluation.features import PASS, FeatureSource, SceneFeatures
from evaluation.metrics.instance import InstanceEvaluator
from evaluation.predictions.folder import PredictionFolder
from evaluation.proposals.proposals import ProposalSource
from evaluation.run_scenes import NoGroundTruthError, PartialResults, SceneResult, run_scenes
from evaluation.scene_scores import SceneScores, matches_of
from evaluation.scenes import EvalScene, Selection
from evaluation.targets import EvalTarget, TargetKind, open_target

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]


class InstancesConfig(Config):
    """How instances are named and scored.

    prompts, synonyms: see evaluation.prompts. target: Gaussians, or the points of a labelled cloud. min_region: smaller
    predictions and instances are ignored (the benchmark's 100 vertices). temperature: of the class probabilities.
    label_space: "" = the scenes' own.
    """

    prompts: str = "rooms"
    synonyms: bool = False
    target: TargetKind = "gaussians"
    min_region: int = Field(default=100, ge=1)
    temperature: float = Field(default=0.02, gt=0)
    label_space: str = ""


def pool_features(features: SceneFeatures, n: int, masks: sparse.csr_matrix) -> F64:
    """[P, C] mean unit feature over each mask [P, N]; zeros where nothing in the mask has a feature.

    Features come by row ranges and sums are kept in float64: memory is masks x channels, whatever the scene.
    """
    columns = masks.tocsc()
    sums: F64 | None = None
    weight = np.zeros(masks.shape[0])
    for start in range(0, n, PASS):
        rows = features.rows(start, min(n, start + PASS)).astype(np.float64)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        unit = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
        part = columns[:, start : start + len(rows)].astype(np.float64)
        sums = part @ unit if sums is None else sums + part @ unit
        weight += part @ (length[:, 0] > 0)
    assert sums is not None, "a scene has at least one Gaussian"
    return np.asarray(sums / np.maximum(weight, 1)[:, None])


def name_masks(pooled: F64, text: F32, temperature: float) -> tuple[I32, F64]:
    """(class [P], its softmax probability [P]) by cosine; class -1 where the pooled feature is zero."""
    length = np.linalg.norm(pooled, axis=1, keepdims=True)
    cosine = np.divide(pooled, length, out=np.zeros_like(pooled), where=length > 0) @ text.T.astype(np.float64)
    logits = np.exp((cosine - cosine.max(axis=1, keepdims=True)) / temperature)
    probability = logits / logits.sum(axis=1, keepdims=True)
    best = cosine.argmax(axis=1)
    known = length[:, 0] > 0
    return np.where(known, best, -1).astype(np.int32), probability[np.arange(len(best)), best]


@dataclass(frozen=True)
class InstancesJob:
    """The evaluator's counts of every (source, proposals) pair on one scene."""

    class_names: tuple[str, ...]
    text: F32
    sources: Mapping[str, FeatureSource]
    proposals: tuple[ProposalSource, ...]
    config: InstancesConfig
    predictions: PredictionFolder | None = None

    def __call__(self, where: EvalScene) -> SceneResult:
        scene = where.load(self.config.label_space)
        target = open_target(scene, self.config.target, self.config.label_space, k=1)
        labels, instances = _truth(target, self.config.label_space)
        if labels is None and self.predictions is None:
            raise NoGroundTruthError("no ground-truth instances")
        things = np.array(thing_classes(self.config.label_space))
        opened = {name: source.open(scene) for name, source in self.sources.items()}
        states: dict[str, Any] = {}
        counts: dict[str, int] = {}
        for source in self.proposals:
            proposals = source.open(target)
            counts[source.origin] = len(proposals)
            for name, features in opened.items():
                row = row_name(name, source)
                pooled = pool_features(features, len(scene.gaussians), proposals.on_gaussians)
                classes, probability = name_masks(pooled, self.text, self.config.temperature)
                keep = np.flatnonzero(np.isin(classes, things))
                # Best first: the official matching takes predictions in the order in which they are given.
                scores = probability * proposals.scores
                keep = keep[np.lexsort((keep, -scores[keep]))]
                masks = proposals.on_target[keep]
                if self.predictions is not None:
                    self.predictions.instances(row, target, masks, classes[keep], scores[keep])
                if labels is not None and instances is not None:
                    evaluator = self._evaluator()
                    evaluator.add(masks, classes[keep], scores[keep], labels, instances, who=scene.name)
                    states[row] = evaluator.state()
        return {"states": states, "proposals": counts}

    def _evaluator(self) -> InstanceEvaluator:
        return InstanceEvaluator(
            self.class_names,
            min_region_size=self.config.min_region,
            groups=class_groups(self.config.label_space),
        )


def row_name(name: str, proposals: ProposalSource) -> str:
    """What a row of the result is called; oracles say so."""
    return f"{name} on {proposals.origin}{' (oracle)' if proposals.oracle else ''}"


def instances(
    selection: Selection,
    class_names: tuple[str, ...],
    text: F32,
    sources: Mapping[str, FeatureSource],
    proposals: tuple[ProposalSource, ...],
    config: InstancesConfig,
    *,
    workers: int = 1,
    partial: PartialResults | None = None,
    predictions: PredictionFolder | None = None,
) -> tuple[dict[str, Any], SceneScores]:
    """Evaluate every source on every kind of proposals.

    Args: as `evaluation.tasks.zero_shot.zero_shot`; `config.label_space` must be given.

    Returns {"rows": {name: AP, AP50, AP25, groups, per class, "oracle"}, "per_scene": {scene: {...}}, "excluded"}
    and the matches per scene.
    """
    job = InstancesJob(class_names, text, sources, proposals, config, predictions)
    found = run_scenes(selection, job, label="instances", workers=workers, partial=partial)
    oracle = {row_name(name, source): source.oracle for name in sources for source in proposals}
    scores = SceneScores(class_names, class_names, class_groups(config.label_space), config.min_region)
    for scene, scene_result in found.items():
        if not scene_result["states"]:
            selection.excluded[scene] = "no ground-truth instances: predictions written, not scored"
        for row, state in scene_result["states"].items():
            scores.instances.setdefault(row, {})[scene] = matches_of(state[0])
    body = {
        "rows": {
            row: {"oracle": oracle[row], **scores.evaluator(row).average_precision().as_dict()}
            for row in scores.instances
        },
        "per_scene": {
            scene: {"proposals": found[scene]["proposals"], **rows} for scene, rows in scores.per_scene().items()
        },
        "excluded": selection.excluded,
    }
    return body, scores


def _truth(target: EvalTarget, label_space: str) -> tuple[I32 | None, I32 | None]:
    """(labels, instances) [M] with -1 for classes that the benchmark does not ask for; None where there is no truth."""
    if target.labels is None or target.instances is None:
        return None, None
    labels = np.where(np.isin(target.labels, thing_classes(label_space)), target.labels, -1).astype(np.int32)
    if not ((labels >= 0) & (target.instances >= 0)).any():
        return None, None
    return labels, target.instances
