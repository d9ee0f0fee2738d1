"""chorus-eval retrieval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED, ConfigError
from chorus_common.runtime.options import FILE, PATH, out_option, workers_option
from evaluation.commands.options import encoder_source_options, left_out, scene_options
from evaluation.results import command_line, result_document, text_table, write_result

if TYPE_CHECKING:
    from evaluation.scenes import SceneOptions
    from evaluation.sources import SourceOptions


@click.command("retrieval")
@scene_options
@encoder_source_options
@click.option(
    "--export", type=PATH, help="Only write the perturbed scenes, <perturbation>/<scene id>.ply, for other encoders."
)
@click.option("--gallery", type=click.Choice(["scene", "split"]), default="scene", help="What is searched.")
@click.option(
    "--perturbation",
    "perturbations",
    multiple=True,
    help="How the scene is changed. May be given several times.  [default: in every way]",
)
@click.option("--min-size", type=click.IntRange(min=1), default=30, help="Smaller instances do not take part.")
@workers_option()
@out_option("Result file (JSON); required unless --export.", FILE, required=False)
def retrieval_command(
    scenes: SceneOptions,
    sources: SourceOptions,
    export: Path | None,
    gallery: Any,
    perturbations: tuple[str, ...],
    min_size: int,
    workers: int,
    out: Path | None,
) -> int:
    """Find the objects of a changed scene in the clean one.

    The scene is changed by noise, by dropping Gaussians, or by turning it.
    """
    from evaluation.metrics.retrieval import FIGURES
    from evaluation.perturb import PERTURBATIONS, export_perturbed
    from evaluation.run_scenes import PartialResults
    from evaluation.scene_scores import scores_path
    from evaluation.sources import output_sources
    from evaluation.tasks.retrieval import RetrievalConfig, retrieval

    unknown = [name for name in perturbations if name not in PERTURBATIONS]
    if unknown:
        raise ConfigError(f"unknown perturbation '{unknown[0]}'; known: {', '.join(PERTURBATIONS)}")
    selection, _, space = scenes.labelled()
    config = RetrievalConfig(
        gallery=gallery,
        perturbations=perturbations or tuple(PERTURBATIONS),
        min_size=min_size,
        seed=sources.seed,
        label_space=space,
    )
    if export is not None:
        export_perturbed(selection, config.perturbations, config.seed, export)
        click.echo(f"written: {export}/<perturbation>/<scene id>.ply")
        return EXIT_DONE
    if out is None:
        raise ConfigError("retrieval needs --out FILE (or --export)")
    found = output_sources(sources, "encoder")
    inputs = {**scenes.inputs(), **sources.inputs(), **config.model_dump()}
    partial = PartialResults.beside(out, {**inputs, "rows": list(found)}, sources.encoder, sources.features)
    body, scores = retrieval(selection, found, config, workers=workers, partial=partial)
    scores.write(scores_path(out))
    write_result(out, result_document("retrieval", command_line(), inputs, body))
    partial.clear()
    header = (f"gallery: {gallery}", "perturbation", "recall@1", "mAP", "class recall@1", "class mAP")
    table = [
        (name, perturbation, *(figures[key] for key in FIGURES))
        for name, row in body["rows"].items()
        for perturbation, figures in row.items()
    ]
    click.echo(text_table(header, [*table, ("chance", "", body["chance"], None, None, None)]))
    left_out(selection.excluded, out)
    return EXIT_SOME_FAILED if selection.failed else EXIT_DONE
