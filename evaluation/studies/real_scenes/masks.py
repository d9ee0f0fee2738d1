"""Class-agnostic AP of merged 2D masks: how well objects are cut out, whatever they are called.

    python -m evaluation.studies.real_scenes.masks --manifest M --split val --store S --set teacher=NAME --out R.json

All instances of the benchmark's classes are one class, "object"; a proposal's confidence is its own score. What the
benchmark does not ask for (wall, floor) and what has no label is void: a mask that lies mostly there is not counted.
No name and no feature is used.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from chorus_common.runtime.config import load_config
from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED, run_cli
from chorus_common.runtime.options import set_option, workers_option
from evaluation.benchmarks import thing_classes
from evaluation.commands.options import result_option, scene_options
from evaluation.metrics.instance import InstanceEvaluator
from evaluation.proposals.merged_masks import MergeConfig, MergedMasks
from evaluation.proposals.proposals import ProposalSource
from evaluation.results import result_document, text_table, write_result
from evaluation.run_scenes import NoGroundTruthError, PartialResults, SceneResult, run_scenes
from evaluation.scene_scores import matches_of
from evaluation.scenes import EvalScene, SceneOptions
from evaluation.targets import open_target

OBJECT = ("object",)


@dataclass(frozen=True)
class ObjectsJob:
    """The evaluator's counts of one scene."""

    proposals: ProposalSource
    label_space: str
    min_region: int

    def __call__(self, where: EvalScene) -> SceneResult:
        target = open_target(where.load(self.label_space), "gaussians", self.label_space, k=1)
        if target.labels is None or target.instances is None:
            raise NoGroundTruthError("no ground-truth instances")
        asked = np.isin(target.labels, thing_classes(self.label_space)) & (target.instances >= 0)
        truth = np.where(asked, 0, -1).astype(np.int32)
        instances = np.where(asked, target.instances, -1).astype(np.int32)
        found = self.proposals.open(target)
        best = np.lexsort((np.arange(len(found)), -found.scores))  # the matching takes them in the given order
        evaluator = InstanceEvaluator(OBJECT, min_region_size=self.min_region)
        classes = np.zeros(len(found), dtype=np.int32)
        evaluator.add(found.on_target[best], classes, found.scores[best], truth, instances, who=where.name)
        return {"state": evaluator.state()[0], "proposals": len(found)}


@click.command("class-agnostic-masks", context_settings={"show_default": True})
@scene_options
@set_option("One setting of the merging of masks.")
@click.option("--min-region", type=click.IntRange(min=1), default=100, help="Smaller masks and instances are ignored.")
@workers_option()
@result_option
def command(scenes: SceneOptions, settings: tuple[str, ...], min_region: int, workers: int, out: Path) -> int:
    """Score merged masks as objects without names."""
    selection, _, space = scenes.labelled()
    merge = load_config(MergeConfig, None, settings)
    inputs: dict[str, Any] = {**scenes.inputs(), "merging": merge.model_dump(), "min_region": min_region}
    partial = PartialResults.beside(out, inputs)
    job = ObjectsJob(MergedMasks(merge), space, min_region)
    found = run_scenes(selection, job, label="masks", workers=workers, partial=partial)
    evaluator = InstanceEvaluator(OBJECT, min_region_size=min_region)
    evaluator.scenes = [matches_of(result["state"]) for result in found.values()]
    scores = evaluator.average_precision().as_dict()
    proposals = {scene: result["proposals"] for scene, result in found.items()}
    line = shlex.join(["python", "-m", "evaluation.studies.real_scenes.masks", *sys.argv[1:]])
    body = {"rows": {"masks": scores}, "proposals": proposals, "excluded": selection.excluded}
    write_result(out, result_document("class-agnostic-masks", line, inputs, body))
    partial.clear()
    click.echo(text_table(("", "AP", "AP50", "AP25"), [("masks", scores["ap"], scores["ap50"], scores["ap25"])]))
    return EXIT_SOME_FAILED if selection.failed else EXIT_DONE


if __name__ == "__main__":
    run_cli(command)
