"""chorus-eval probe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from chorus_common.errors import ConfigError
from evaluation.commands.options import FILE, device_option, finish, manifest_option, out_option, store_option
from evaluation.results import command_line, result_document, write_result


@click.command("probe")
@store_option
@manifest_option
@click.option("--train-split", default="train", help="Split to fit the linear layer on.")
@click.option("--split", default="val", help="Split to score.")
@click.option("--encoder", type=FILE, required=True, help="Student folder or published checkpoint.")
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
@click.option("--seed", type=int, default=0, help="Of the draw and of the random encoder.")
@out_option
@device_option
def probe_command(
    stores: tuple[Path, ...],
    manifest: Path | None,
    train_split: str,
    split: str,
    encoder: Path,
    points_per_scene: int,
    balance: Any,
    l2: float,
    seed: int,
    out: Path,
    device: str,
) -> int:
    """Fit one linear layer on frozen features; the random encoder is the yardstick."""
    if manifest is None:
        raise ConfigError(
            "probe needs --manifest: without splits it would be scored on the scenes that it was fitted on"
        )
    if train_split == split:
        raise ConfigError(
            f"--train-split and --split are both '{split}'; a probe is scored on scenes that it was not fitted on"
        )
    from evaluation.scenes import labelled_scenes, select_scenes
    from evaluation.tasks.probe import ProbeConfig, probe
    from stage2_distill.encoder import load_encoder

    config = ProbeConfig(points_per_scene=points_per_scene, balance=balance, l2=l2, seed=seed)
    train, val = select_scenes(stores, manifest, train_split), select_scenes(stores, manifest, split)
    class_names, label_space = labelled_scenes(val)
    _, train_space = labelled_scenes(train)
    if train_space != label_space:
        raise ConfigError(
            f"{manifest}: split '{train_split}' has label space '{train_space}', split '{split}' has '{label_space}'"
        )
    body = probe(train, val, class_names, load_encoder(encoder).to(device), config)
    inputs = {
        "stores": [str(s) for s in stores],
        "manifest": str(manifest),
        "train_split": train_split,
        "split": split,
        "encoder": str(encoder),
        "label_space": label_space,
        **config.model_dump(),
    }
    write_result(out, result_document("probe", command_line(), inputs, body))
    return finish(body["rows"], body["excluded"], train.failed or val.failed, out)
