"""chorus-eval zero-shot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus_common.runtime.options import PATH, workers_option
from evaluation.commands.options import (
    finish,
    optional_text,
    prompts_option,
    result_option,
    scene_options,
    synonyms_option,
    target_option,
    text_source_options,
    voters_option,
)
from evaluation.results import command_line, result_document, text_table, write_result

if TYPE_CHECKING:
    from evaluation.scenes import SceneOptions
    from evaluation.sources import SourceOptions


@click.command("zero-shot")
@scene_options
@text_source_options
@click.option(
    "--lifted/--no-lifted",
    default=None,
    help="Rows of the teacher's own features, lifted from the cache.  [default: where there is a store]",
)
@prompts_option
@synonyms_option
@target_option
@voters_option
@click.option(
    "--oracle-instances", is_flag=True, help="Add rows in which ground-truth instances vote; marked as oracle."
)
@click.option("--predictions", type=PATH, help="Folder for predictions: the benchmark's text files and coloured .ply.")
@workers_option()
@result_option
def zero_shot_command(
    scenes: SceneOptions,
    sources: SourceOptions,
    prompts: str,
    synonyms: bool,
    target: Any,
    k: int,
    oracle_instances: bool,
    predictions: Path | None,
    workers: int,
    out: Path,
) -> int:
    """Segment scenes by class names alone.

    Rows are the student, the lifted teacher, or any feature files.
    """
    from evaluation.predictions.folder import PredictionFolder
    from evaluation.prompts import class_embeddings, prompts_for
    from evaluation.run_scenes import PartialResults
    from evaluation.scene_scores import scores_path
    from evaluation.sources import text_sources
    from evaluation.tasks.zero_shot import ZeroShotConfig, methods, zero_shot

    selection, class_names, space = scenes.labelled(keep_unlabelled=predictions is not None)
    found = text_sources(sources, selection)
    prompts = prompts_for(found.text_encoder, prompts)
    config = ZeroShotConfig(
        prompts=prompts, synonyms=synonyms, target=target, k=k, oracle_instances=oracle_instances, label_space=space
    )
    inputs = {**scenes.inputs(), **sources.inputs(), **found.inputs(), **config.model_dump()}
    rows = methods(found.sources)
    key = {**inputs, "rows": list(rows), "predictions": optional_text(predictions)}
    partial = PartialResults.beside(out, key, sources.encoder, sources.features)
    body, scores = zero_shot(
        selection,
        class_names,
        class_embeddings(found.text_encoder, class_names, templates=prompts, synonyms=synonyms),
        rows,
        config,
        workers=workers,
        partial=partial,
        predictions=None if predictions is None else PredictionFolder(predictions, space, class_names),
    )
    scores.write(scores_path(out))
    write_result(out, result_document("zero-shot", command_line(), inputs, body))
    partial.clear()
    code = finish(body["rows"], selection.excluded, selection.failed, out)
    click.echo(_definitions(body["rows"]))
    return code


def _definitions(rows: dict[str, Any]) -> str:
    """mIoU / f-mIoU of every row under every published definition."""
    names = list(next(iter(rows.values()))["published_definitions"]) if rows else []
    table = []
    for row, scores in rows.items():
        variants = [scores["published_definitions"][name] for name in names]
        table.append((row, *(f"{_percent(v['miou'])} / {_percent(v['f_miou'])}" for v in variants)))
    return text_table(("mIoU / f-mIoU by published definitions:", *names), table)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
