"""chorus-eval probe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from chorus_common.runtime.errors import ConfigError
from chorus_common.runtime.options import PATH, seed_option, workers_option
from chorus_common.runtime.store_path import StorePath, StorePathType
from evaluation.commands.options import (
    encoder_device_option,
    finish,
    hold_out_option,
    learn_split_option,
    result_option,
    scene_manifest_option,
    scene_stores_option,
    scored_split_option,
    space_option,
    tta_option,
)
from evaluation.results import command_line, result_document, write_result


@click.command("probe")
@scene_stores_option
@scene_manifest_option
@learn_split_option
@scored_split_option
@hold_out_option
@space_option
@click.option("--encoder", type=PATH, help="Student or encoder, a path or a name: rows 'trained' and 'random'.")
@click.option("--features", type=StorePathType(), help="Folder of <scene id>.npy [N, C], any C: row 'features'.")
@click.option("--teacher", help="A dense teacher of the stores, lifted: row 'lifted_teacher'.")
@click.option(
    "--points-per-scene",
    type=click.IntRange(min=1),
    default=4096,
    help="Labelled Gaussians drawn from a training scene.",
)
@click.option(
    "--balance", type=click.Choice(["plain", "balanced"]), default="plain", help="Weight of the classes in the loss."
)
@click.option("--l2", type=click.FloatRange(min=0), default=1e-4, help="Weight decay of the linear layer.")
@seed_option("Seed of the draw and of the random encoder.")
@tta_option
@workers_option()
@result_option
@encoder_device_option()
def probe_command(
    stores: tuple[StorePath, ...],
    manifest: StorePath | None,
    train_splits: tuple[str, ...],
    split: str,
    hold_out: str,
    label_space: str,
    encoder: Path | None,
    features: StorePath | None,
    teacher: str | None,
    points_per_scene: int,
    balance: Any,
    l2: float,
    seed: int,
    tta_rotations: int,
    workers: int,
    out: Path,
    device: str,
) -> int:
    """Fit one linear layer on frozen features.

    Features come from an encoder, from files, or from a teacher of the stores, lifted. The random encoder is the
    yardstick.
    """
    if manifest is None:
        raise ConfigError(
            "probe needs --manifest: without splits it would be scored on the scenes that it was fitted on"
        )
    from evaluation.benchmarks import class_groups
    from evaluation.run_scenes import PartialResults
    from evaluation.scene_scores import SceneScores, scores_path
    from evaluation.sources import SourceOptions, output_sources
    from evaluation.splits import Splits, labelled_pair
    from evaluation.tasks.probe import ProbeConfig, probe

    config = ProbeConfig(points_per_scene=points_per_scene, balance=balance, l2=l2, seed=seed)
    options = SourceOptions(
        encoder=encoder,
        features=features,
        teacher=teacher,
        device=device,
        seed=seed,
        tta_rotations=tta_rotations,
        random=True,
    )
    train, val = Splits(train_splits, (split,), hold_out).select(stores, manifest)
    sources = output_sources(options, "trained", train.scenes[0])
    class_names, space = labelled_pair(train, val, label_space)
    scores = SceneScores(class_names, groups=class_groups(space))
    inputs = {
        "stores": [str(s) for s in stores],
        "manifest": str(manifest),
        "train_splits": list(train_splits),
        "split": split,
        "hold_out": hold_out,
        "label_space": space,
        "teacher": teacher,
        **options.inputs(),
        **config.model_dump(),
    }
    partial = PartialResults.beside(out, inputs, encoder, features)
    body = probe(train, val, space, sources, config, scores, workers=workers, partial=partial)
    scores.write(scores_path(out))
    write_result(out, result_document("probe", command_line(), inputs, body))
    partial.clear()
    return finish(body["rows"], body["excluded"], train.failed or val.failed, out)
