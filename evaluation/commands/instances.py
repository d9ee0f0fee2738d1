"""chorus-eval instances."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED, ConfigError
from chorus_common.runtime.options import PATH, set_option, workers_option
from evaluation.commands.options import (
    left_out,
    lifted_option,
    optional_text,
    prompts_option,
    result_option,
    scene_options,
    synonyms_option,
    target_option,
    text_source_options,
)
from evaluation.results import command_line, result_document, text_table, write_result

if TYPE_CHECKING:
    from evaluation.scenes import SceneOptions
    from evaluation.sources import SourceOptions


@click.command("instances")
@scene_options
@text_source_options
@lifted_option
@click.option(
    "--proposals",
    multiple=True,
    default=("masks",),
    help="Where masks come from: masks (2D masks of the cache, merged over views), truth (oracle), or a folder in "
    "ScanNet's instance format. May be given several times.",
)
@set_option("One setting of the merging of masks.")
@prompts_option
@synonyms_option
@target_option
@click.option("--min-region", type=click.IntRange(min=1), default=100, help="Smaller masks and instances are ignored.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    default=0.02,
    help="Temperature of the class probabilities.",
)
@click.option("--predictions", type=PATH, help="Folder for predictions in the benchmark's format, and coloured .ply.")
@workers_option()
@result_option
def instances_command(
    scenes: SceneOptions,
    sources: SourceOptions,
    proposals: tuple[str, ...],
    settings: tuple[str, ...],
    prompts: str,
    synonyms: bool,
    target: Any,
    min_region: int,
    temperature: float,
    predictions: Path | None,
    workers: int,
    out: Path,
) -> int:
    """Find and name objects.

    Class-agnostic masks are classified by their pooled features and scored by AP, AP50 and AP25.
    """
    from chorus_common.runtime.config import load_config
    from evaluation.predictions.folder import PredictionFolder
    from evaluation.prompts import class_embeddings, prompts_for
    from evaluation.proposals.choose import proposal_sources
    from evaluation.proposals.merged_masks import MergeConfig
    from evaluation.run_scenes import PartialResults
    from evaluation.scene_scores import scores_path
    from evaluation.sources import text_sources
    from evaluation.tasks.instances import InstancesConfig, instances

    selection, class_names, space = scenes.labelled(keep_unlabelled=predictions is not None)
    if "masks" in proposals and not scenes.stores:
        raise ConfigError("2D masks live in the cache; give --store, or --proposals truth or a folder")
    merge = load_config(MergeConfig, None, settings)
    found = text_sources(sources, selection)
    prompts = prompts_for(found.text_encoder, prompts)
    config = InstancesConfig(
        prompts=prompts,
        synonyms=synonyms,
        target=target,
        min_region=min_region,
        temperature=temperature,
        label_space=space,
    )
    inputs = {
        **scenes.inputs(),
        **sources.inputs(),
        **found.inputs(),
        "proposals": list(proposals),
        "merging": merge.model_dump(),
        **config.model_dump(),
    }
    key = {**inputs, "rows": list(found.sources), "predictions": optional_text(predictions)}
    partial = PartialResults.beside(out, key, sources.encoder, sources.features)
    body, scores = instances(
        selection,
        class_names,
        class_embeddings(found.text_encoder, class_names, templates=prompts, synonyms=synonyms),
        found.sources,
        proposal_sources(proposals, merge),
        config,
        workers=workers,
        partial=partial,
        predictions=None if predictions is None else PredictionFolder(predictions, space, class_names),
    )
    scores.write(scores_path(out))
    write_result(out, result_document("instances", command_line(), inputs, body))
    partial.clear()
    rows = body["rows"]
    groups = list(next(iter(rows.values()))["groups"]) if rows else []
    header = ("", "AP", "AP50", "AP25", *(f"AP {group}" for group in groups))
    table = [(n, r["ap"], r["ap50"], r["ap25"], *(r["groups"][g]["ap"] for g in groups)) for n, r in rows.items()]
    click.echo(text_table(header, table))
    left_out(selection.excluded, out)
    return EXIT_SOME_FAILED if selection.failed else EXIT_DONE
