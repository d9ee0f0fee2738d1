"""Fine-tuning: semantic and instance segmentation learned from labels on top of an encoder.

Three modes share one loop: a linear layer on the frozen encoder, a light decoder on the frozen encoder, and full
fine-tuning. The row `trained` starts from the given weights, the row `random` from seeded random weights of the same
architecture: what the architecture, its inputs and the labels give away by themselves (with mode "full": training from
scratch).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.config import dump_config
from chorus_common.runtime.weight_files import weights_fingerprint
from evaluation.benchmarks import class_groups, thing_classes
from evaluation.data_efficiency import Limit
from evaluation.finetuning.data import LabelledDataset
from evaluation.finetuning.model import Segmentor, build_segmentor
from evaluation.finetuning.predict import ScenePrediction, predict
from evaluation.finetuning.recipe import finetune_model
from evaluation.finetuning.settings import FineTuneConfig
from evaluation.heads.grouping import Instances
from evaluation.metrics.instance import InstanceEvaluator
from evaluation.metrics.semantic import ConfusionMatrix
from evaluation.run_scenes import NoGroundTruthError, PartialResults, SceneResult, run_scenes
from evaluation.scene_scores import SceneScores, matches_of, sparse_counts
from evaluation.scenes import EvalScene, Selection
from evaluation.targets import EvalTarget, TargetKind, open_target
from evaluation.tasks.probe import random_twin
from evaluation.tasks.zero_shot import score_row
from stage2_distill.encoder import Encoder
from stage2_distill.engine.distributed import is_main_process


@dataclass(frozen=True)
class FineTuneJob:
    """What is fine-tuned on what.

    encoders: row name -> encoder to start from. folder: state of unfinished runs, one folder per row.
    target, k: what is scored, see evaluation.targets. workers: processes that score.
    """

    config: FineTuneConfig
    label_space: str
    class_names: tuple[str, ...]
    encoders: Mapping[str, Encoder]
    folder: Path
    target: TargetKind = "gaussians"
    k: int = 25
    workers: int = 1


def with_random(encoder: Encoder, seed: int, *, random: bool) -> dict[str, Encoder]:
    """The rows of a result: the encoder itself and, if asked for, its twin with random weights."""
    return {"trained": encoder, **({"random": random_twin(encoder, seed)} if random else {})}


def finetune(job: FineTuneJob, train: Selection, val: Selection) -> tuple[dict[str, Any], SceneScores]:
    """Fine-tune every encoder on `train` and score it on `val`.

    Returns {"rows": {row: scores}, "per_scene": {scene: {row: ...}}, "excluded": ..., "learned_from": ...} and the
    counts per scene. Goes on where an earlier call with the same job stopped. Under torchrun all processes train, and
    the first one scores: the others return no rows.
    """
    config = job.config
    limit = Limit.of(config.limit)
    things = np.zeros(len(job.class_names), dtype=bool)
    things[list(thing_classes(job.label_space))] = True
    scores = SceneScores(
        job.class_names,
        tuple(n for n, thing in zip(job.class_names, things) if thing) if config.task == "instance" else (),
        class_groups(job.label_space),
        config.min_region,
    )
    rows: dict[str, Any] = {}
    learned_from: dict[str, Any] = {}
    for row, encoder in job.encoders.items():
        model = build_segmentor(encoder, len(job.class_names), config)
        dataset = LabelledDataset(train.scenes, job.label_space, things, model.encoder.config, config, limit)
        finetune_model(model, dataset, config, job.folder / row, f"{config.mode} {row}")
        if not is_main_process():  # of torchrun's processes one scores
            continue
        learned_from = {"scenes": [s.name for s in dataset.scenes], "points_per_scene": config.limit.points or None}
        scoring = ScoreScene(model, config, job.label_space, things, scores, job.target, job.k)
        partial = PartialResults(job.folder / row / "scored", scoring.key())
        label = f"{config.mode} {row}: scoring"
        for scene, scene_result in run_scenes(val, scoring, label=label, workers=job.workers, partial=partial).items():
            scores.semantic.setdefault(row, {})[scene] = scores.matrix(scene_result["counts"])
            if config.task == "instance":
                scores.instances.setdefault(row, {})[scene] = matches_of(scene_result["matches"])
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        rows[row] = {**score_of(scores, row), "trained_parameters": trained}
    body = {
        "rows": rows,
        "per_scene": scores.per_scene(),
        "excluded": dict(sorted({**train.excluded, **val.excluded}.items())),
        "learned_from": learned_from,
    }
    return body, scores


@dataclass(frozen=True)
class ScoreScene:
    """A job of `run_scenes`: predict one scene and count. `things` [K]: classes that have instances."""

    model: Segmentor
    config: FineTuneConfig
    label_space: str
    things: NDArray[np.bool_]
    scores: SceneScores
    target: TargetKind
    k: int

    def key(self) -> str:
        """Hash of everything but the scene that changes a count."""
        words = [dump_config(self.config), weights_fingerprint(self.model), self.label_space, self.target, str(self.k)]
        return hashlib.sha256(json.dumps(words).encode()).hexdigest()

    def __call__(self, where: EvalScene) -> SceneResult:
        scene = where.load(self.label_space)
        target = open_target(scene, self.target, self.label_space, k=self.k)
        if not target.has_truth:
            raise NoGroundTruthError("no ground truth")
        assert target.labels is not None
        instance = self.config.task == "instance"
        if instance and target.instances is None:
            raise NoGroundTruthError("no ground-truth instances")
        prediction = predict(self.model, scene.gaussians)
        classes = target.classes(prediction.classes(), len(self.scores.class_names))
        matrix = ConfusionMatrix(self.scores.class_names).add(target.labels, classes, who=scene.name)
        scene_result: SceneResult = {"counts": sparse_counts(matrix)}
        if instance:
            scene_result["matches"] = self._match(prediction, target, scene.name).state()[0]
        return scene_result

    def _match(self, prediction: ScenePrediction, target: EvalTarget, who: str) -> InstanceEvaluator:
        assert target.labels is not None
        assert target.instances is not None
        grid = self.model.encoder.config.inputs.grid_size
        found: Instances = prediction.instances(grid, self.things, self.config.grouping)
        number = np.where(self.things, np.cumsum(self.things) - 1, -1)  # class -> its place among the things
        labels = np.where(target.labels >= 0, number[target.labels], -1)
        evaluator = InstanceEvaluator(self.scores.thing_names, min_region_size=self.config.min_region)
        masks = target.masks(found.masks)
        return evaluator.add(masks, number[found.classes], found.scores, labels, target.instances, who=who)


def score_of(scores: SceneScores, row: str) -> dict[str, Any]:
    """All scores of one row, over all its scenes; instance scores under "instances"."""
    result = score_row(scores.total(row))
    if row in scores.instances:
        result["instances"] = scores.evaluator(row).average_precision().as_dict()
    return result
