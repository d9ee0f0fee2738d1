"""chorus-eval retrieval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from chorus_common.errors import EXIT_DONE, EXIT_SOME_FAILED, ConfigError
from evaluation.commands.options import (
    FILE,
    device_option,
    left_out,
    manifest_option,
    optional_store_option,
    optional_text,
    space_option,
    split_option,
    workers_option,
)
from evaluation.results import command_line, result_document, text_table, write_result


@click.command("retrieval")
@optional_store_option
@manifest_option
@split_option
@space_option
@click.option("--encoder", type=FILE, help="Student folder or any encoder checkpoint: row 'encoder' (its own output).")
@click.option("--random/--no-random", default=True, help="The row 'random': the same architecture, random weights.")
@click.option(
    "--features",
    type=FILE,
    help="Folder with clean/<scene id>.npy and <perturbation>/<scene id>.npy: row 'features'. See --export.",
)
@click.option(
    "--export", type=FILE, help="Only write the perturbed scenes, <perturbation>/<scene id>.ply, for other encoders."
)
@click.option("--gallery", type=click.Choice(["scene", "split"]), default="scene", help="What is searched.")
@click.option("--perturbation", "perturbations", multiple=True, help="Repeatable.  [default: all]")
@click.option("--min-size", type=click.IntRange(min=1), default=30, help="Smaller instances do not take part.")
@click.option("--seed", type=int, default=0, help="Of noise, subsampling and random weights.")
@device_option
@workers_option
@click.option("--out", type=FILE, help="Result file (JSON); required unless --export.")
def retrieval_command(
    stores: tuple[Path, ...],
    manifest: Path | None,
    split: str,
    label_space: str,
    encoder: Path | None,
    random: bool,
    features: Path | None,
    export: Path | None,
    gallery: Any,
    perturbations: tuple[str, ...],
    min_size: int,
    seed: int,
    device: str,
    workers: int,
    out: Path | None,
) -> int:
    """Find the objects of a noisy, sparse or turned scene among those of the clean one."""
    from evaluation.perturb import PERTURBATIONS, export_perturbed
    from evaluation.run_scenes import Pieces
    from evaluation.scenes import labelled_scenes, select_scenes
    from evaluation.sources import retrieval_sources
    from evaluation.tasks.retrieval import FIGURES, RetrievalConfig, retrieval

    unknown = [name for name in perturbations if name not in PERTURBATIONS]
    if unknown:
        raise ConfigError(f"unknown perturbation '{unknown[0]}'; known: {', '.join(PERTURBATIONS)}")
    selection = select_scenes(stores, manifest, split)
    _, space = labelled_scenes(selection, label_space)
    config = RetrievalConfig(
        gallery=gallery,
        perturbations=perturbations or tuple(PERTURBATIONS),
        min_size=min_size,
        seed=seed,
        label_space=space,
    )
    if export is not None:
        export_perturbed(selection, config.perturbations, seed, export)
        click.echo(f"written: {export}/<perturbation>/<scene id>.ply")
        return EXIT_DONE
    if out is None:
        raise ConfigError("retrieval needs --out FILE (or --export)")
    sources = retrieval_sources(encoder, random, features, device, seed)
    inputs = {
        "stores": [str(s) for s in stores],
        "manifest": optional_text(manifest),
        "split": split,
        "encoder": optional_text(encoder),
        "features": optional_text(features),
        **config.model_dump(),
    }
    pieces = Pieces.beside(out, {**inputs, "rows": list(sources)}, encoder, features)
    body = retrieval(selection, sources, config, workers=workers, pieces=pieces)
    write_result(out, result_document("retrieval", command_line(), inputs, body))
    pieces.clear()
    header = (f"gallery: {gallery}", "perturbation", "recall@1", "mAP", "class recall@1", "class mAP")
    table = [
        (name, perturbation, *(figures[key] for key in FIGURES))
        for name, row in body["rows"].items()
        for perturbation, figures in row.items()
    ]
    click.echo(text_table(header, [*table, ("chance", "", body["chance"], None, None, None)]))
    left_out(selection.excluded, out)
    return EXIT_SOME_FAILED if selection.failed else EXIT_DONE
