"""chorus-eval zero-shot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from evaluation.commands.options import (
    FILE,
    finish,
    manifest_option,
    optional_store_option,
    optional_text,
    out_option,
    prompts_option,
    source_options,
    space_option,
    split_option,
    synonyms_option,
    target_option,
    workers_option,
)
from evaluation.results import command_line, result_document, text_table, write_result


@click.command("zero-shot")
@optional_store_option
@manifest_option
@split_option
@space_option
@source_options
@click.option(
    "--lifted/--no-lifted",
    default=None,
    help="Rows of the teacher's own features, lifted from the cache.  [default: where there is a store]",
)
@prompts_option
@synonyms_option
@target_option
@click.option("-k", "k", type=click.IntRange(min=1), default=25, help="Gaussians that vote for a point (--on points).")
@click.option(
    "--oracle-instances", is_flag=True, help="Add rows in which ground-truth instances vote; marked as oracle."
)
@click.option("--predictions", type=FILE, help="Folder for predictions: the benchmark's text files and coloured .ply.")
@workers_option
@out_option
def zero_shot_command(
    stores: tuple[Path, ...],
    manifest: Path | None,
    split: str,
    label_space: str,
    encoder: Path | None,
    random: bool,
    features: Path | None,
    teacher: str | None,
    text: str | None,
    seed: int,
    device: str,
    lifted: bool | None,
    prompts: str,
    synonyms: bool,
    target: Any,
    k: int,
    oracle_instances: bool,
    predictions: Path | None,
    workers: int,
    out: Path,
) -> int:
    """Segment scenes by class names alone: student, lifted teacher, or any feature files."""
    from evaluation.predictions.folder import PredictionFolder
    from evaluation.prompts import class_embeddings
    from evaluation.run_scenes import Pieces
    from evaluation.scenes import labelled_scenes, select_scenes
    from evaluation.sources import SourceOptions, text_sources
    from evaluation.tasks.zero_shot import ZeroShotConfig, contenders, zero_shot

    selection = select_scenes(stores, manifest, split)
    class_names, space = labelled_scenes(selection, label_space, keep_unlabelled=predictions is not None)
    config = ZeroShotConfig(
        prompts=prompts, synonyms=synonyms, target=target, k=k, oracle_instances=oracle_instances, label_space=space
    )
    lifted = bool(stores) if lifted is None else lifted
    found = text_sources(SourceOptions(encoder, random, features, lifted, teacher, text, device, seed), selection)
    inputs = {
        "stores": [str(s) for s in stores],
        "manifest": optional_text(manifest),
        "split": split,
        "encoder": optional_text(encoder),
        "features": optional_text(features),
        "teacher": found.teacher,
        "text_encoder": found.text_encoder.spec,
        "seed": seed,
        **config.model_dump(),
    }
    rows = contenders(found.sources)
    pieces = Pieces.beside(
        out, {**inputs, "rows": list(rows), "predictions": optional_text(predictions)}, encoder, features
    )
    body = zero_shot(
        selection,
        class_names,
        class_embeddings(found.text_encoder, class_names, templates=prompts, synonyms=synonyms),
        rows,
        config,
        workers=workers,
        pieces=pieces,
        predictions=None if predictions is None else PredictionFolder(predictions, space, class_names),
    )
    write_result(out, result_document("zero-shot", command_line(), inputs, body))
    pieces.clear()
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
