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

from chorus_common.config import Config
from evaluation.benchmarks import thing_classes
from evaluation.features import FeatureSource
from evaluation.perturb import PERTURBATIONS, perturb
from evaluation.run_scenes import NoGroundTruthError, Piece, Pieces, run_scenes
from evaluation.scenes import EvalScene, Selection
from evaluation.tasks.instances import pool_features

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: numbers of one row and perturbation
FIGURES = ("recall_at_1", "map", "class_recall_at_1", "class_map")


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

    def __call__(self, where: EvalScene) -> Piece:
        scene = where.load(self.config.label_space)
        gaussians = scene.gaussians
        if gaussians.labels is None or gaussians.instances is None:
            raise NoGroundTruthError("no ground-truth instances")
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
    pieces: Pieces | None = None,
) -> dict[str, Any]:
    """Evaluate every source under every perturbation.

    Returns {"rows": {name: {perturbation: figures, n_queries; "mean": figures}}, "per_scene", "chance", "excluded"}.
    """
    found = run_scenes(selection, RetrievalJob(sources, config), label="retrieval", workers=workers, pieces=pieces)
    scenes = list(found.values())
    starts = np.cumsum([0] + [len(piece["ids"]) for piece in scenes])
    classes = np.concatenate([np.array(piece["classes"], np.int64) for piece in scenes])
    rows: dict[str, Any] = {}
    per_scene: dict[str, Any] = {name: {"n_instances": len(piece["ids"])} for name, piece in found.items()}
    for name in sources:
        clean = [np.array(piece["features"][name]["clean"]["rows"]) for piece in scenes]
        everything = np.concatenate(clean)
        rows[name] = {}
        for perturbation in config.perturbations:
            figures = []
            for s, (scene_name, piece) in enumerate(found.items()):
                asked = piece["features"][name][perturbation]
                right = np.array(asked["of"], np.int64)
                if len(right) == 0:
                    continue
                whole = config.gallery == "split"
                gallery = everything if whole else clean[s]
                gallery_classes = classes if whole else classes[starts[s] : starts[s + 1]]
                answers = rank(np.array(asked["rows"]), gallery, right + (starts[s] if whole else 0), gallery_classes)
                per_scene[scene_name].setdefault(name, {})[perturbation] = dict(zip(FIGURES, answers.mean(0).tolist()))
                figures.append(answers)
            table = np.concatenate(figures) if figures else np.zeros((0, len(FIGURES)))
            means = table.mean(axis=0).tolist() if len(table) else [None] * len(FIGURES)
            rows[name][perturbation] = {**dict(zip(FIGURES, means)), "n_queries": len(table)}
        rows[name]["mean"] = {
            key: _mean([rows[name][p][key] for p in config.perturbations if rows[name][p][key] is not None])
            for key in FIGURES
        }
    sizes = np.diff(starts) if config.gallery == "scene" else np.full(len(scenes), starts[-1])
    chance = float((np.diff(starts) / sizes).sum() / starts[-1])
    return {"rows": rows, "per_scene": per_scene, "chance": chance, "excluded": selection.excluded}


def rank(queries: F64, gallery: F64, right: I64, classes: I64) -> F64:
    """[Q, 4] recall@1, AP, class recall@1 and class AP of every query.

    queries [Q, C], gallery [G, C] (any length; zeros are nobody's neighbour), right [Q] rows of the gallery,
    classes [G].
    """
    cosine = _unit(queries) @ _unit(gallery).T
    # Rounding must not decide between equal answers: they are tied on purpose, and ties count against the query.
    cosine = np.round(cosine, 9)
    figures = np.empty((len(queries), len(FIGURES)))
    for q, target in enumerate(right):
        own = cosine[q, target]
        position = int((cosine[q] >= own).sum())
        same = classes == classes[target]
        # Within a tie, other classes come first.
        order = np.lexsort((same, -cosine[q]))
        hits = same[order]
        precision = np.cumsum(hits) / np.arange(1, len(order) + 1)
        figures[q] = position == 1, 1 / position, hits[0], precision[hits].mean()
    return figures


def _unit(rows: F64) -> F64:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
