"""Instance retrieval: does an object keep its feature when its scene is noisy, sparse or turned?

Definition (our own; no public one exists): a scene is perturbed as a whole and encoded anew. The feature of an instance
is the mean unit feature of its Gaussians. Every instance of the perturbed scene is a query; the gallery are the
instances of the clean scene (`gallery = "scene"`) or of all clean scenes of the split ("split"); they are ranked by
cosine. An instance takes part if it is a thing and has at least `min_size` Gaussians in the clean scene and one left
in the perturbed one.

- recall@1: the best answer is the same instance. mAP: mean average precision with that one right answer, which is the
  mean of 1 / rank. Instances with equal cosine count as ranked before the right one: constant features get no credit.
- class recall@1, class mAP: right are all gallery instances of the query's class; AP is the mean over them of
  (right answers so far) / rank.

A mean over queries of all scenes, per perturbation; chance is the recall of a random ranking. Ground truth says which
Gaussians are an instance, and enters nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse

from chorus_common.runtime.config import Config
from evaluation.benchmarks import thing_classes
from evaluation.features import FeatureSource
from evaluation.metrics.retrieval import FIGURES, QuerySums, mean_figures, rank
from evaluation.perturb import PERTURBATIONS, perturb
from evaluation.run_scenes import NoGroundTruthError, PartialResults, SceneResult, run_scenes
from evaluation.scene_scores import SceneScores
from evaluation.scenes import EvalScene, Selection
from evaluation.targets import check_labels
from evaluation.tasks.instances import pool_features

I64 = NDArray[np.int64]


class RetrievalConfig(Config):
    """perturbations: names in `evaluation.perturb.PERTURBATIONS`. seed: of noise and subsampling."""

    gallery: Literal["scene", "split"] = "scene"
    perturbations: tuple[str, ...] = tuple(PERTURBATIONS)
    min_size: int = Field(default=30, ge=1)
    seed: int = 0
    label_space: str = ""


@dataclass(frozen=True)
class RetrievalJob:
    """Pooled features of one scene's instances, clean and perturbed."""

    sources: Mapping[str, FeatureSource]
    config: RetrievalConfig

    def __call__(self, where: EvalScene) -> SceneResult:
        scene = where.load(self.config.label_space)
        gaussians = scene.gaussians
        if gaussians.labels is None or gaussians.instances is None:
            raise NoGroundTruthError("no ground-truth instances")
        check_labels(gaussians.labels, self.config.label_space or gaussians.label_space, scene.name)
        things = np.isin(gaussians.labels, thing_classes(self.config.label_space)) & (gaussians.instances >= 0)
        ids, counts = np.unique(gaussians.instances[things], return_counts=True)
        ids = ids[counts >= self.config.min_size]
        if len(ids) == 0:
            raise NoGroundTruthError("no ground-truth instances")
        classes = [int(np.bincount(gaussians.labels[things & (gaussians.instances == i)]).argmax()) for i in ids]
        features: dict[str, Any] = {name: {} for name in self.sources}
        for perturbation in ("clean", *self.config.perturbations):
            changed, kept = perturb(scene, perturbation, self.config.seed)
            instance = np.where(things[kept], gaussians.instances[kept], -1)
            masks = sparse.csr_matrix(instance[None, :] == ids[:, None])
            present = np.asarray(masks.sum(axis=1)).reshape(-1) > 0
            for name, source in self.sources.items():
                pooled = pool_features(source.open(changed), len(changed.gaussians), masks)
                features[name][perturbation] = {
                    "rows": pooled[present].tolist(),
                    "of": np.flatnonzero(present).tolist(),
                }
        return {"ids": ids.tolist(), "classes": classes, "features": features}


def retrieval(
    selection: Selection,
    sources: Mapping[str, FeatureSource],
    config: RetrievalConfig,
    *,
    workers: int = 1,
    partial: PartialResults | None = None,
) -> tuple[dict[str, Any], SceneScores]:
    """Evaluate every source under every perturbation.

    Returns {"rows": {name: {perturbation: figures, n_queries; "mean": figures}}, "per_scene", "chance", "excluded"} and
    the sums per scene.
    """
    found = run_scenes(selection, RetrievalJob(sources, config), label="retrieval", workers=workers, partial=partial)
    scenes = list(found.values())
    starts = np.cumsum([0] + [len(scene_result["ids"]) for scene_result in scenes])
    classes = np.concatenate([np.array(scene_result["classes"], np.int64) for scene_result in scenes])
    rows: dict[str, Any] = {}
    scores = SceneScores((), gallery=config.gallery)
    per_scene: dict[str, Any] = {
        name: {"n_instances": len(scene_result["ids"])} for name, scene_result in found.items()
    }
    for name in sources:
        clean = [np.array(scene_result["features"][name]["clean"]["rows"]) for scene_result in scenes]
        everything = np.concatenate(clean)
        held = scores.retrieval.setdefault(name, {})
        for s, (scene_name, scene_result) in enumerate(found.items()):
            sums = {}
            for perturbation in config.perturbations:
                asked = scene_result["features"][name][perturbation]
                right = np.array(asked["of"], np.int64)
                if len(right):
                    whole = config.gallery == "split"
                    gallery = everything if whole else clean[s]
                    gallery_classes = classes if whole else classes[starts[s] : starts[s + 1]]
                    right = right + (starts[s] if whole else 0)
                    sums[perturbation] = QuerySums.of(rank(np.array(asked["rows"]), gallery, right, gallery_classes))
            held[scene_name] = sums
            per_scene[scene_name][name] = {p: mean_figures([part]) for p, part in sums.items()}
        rows[name] = {p: mean_figures(sums[p] for sums in held.values() if p in sums) for p in config.perturbations}
        rows[name]["mean"] = {
            key: _mean([rows[name][p][key] for p in config.perturbations if rows[name][p][key] is not None])
            for key in FIGURES
        }
    sizes = np.diff(starts) if config.gallery == "scene" else np.full(len(scenes), starts[-1])
    chance = float((np.diff(starts) / sizes).sum() / starts[-1])
    return {"rows": rows, "per_scene": per_scene, "chance": chance, "excluded": selection.excluded}, scores


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
