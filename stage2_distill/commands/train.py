"""chorus-stage2 train, and the run that train and adapt share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from chorus_common.runtime.errors import ConfigError
from chorus_common.runtime.options import (
    config_option,
    device_option,
    manifest_option,
    set_option,
    split_option,
    stores_option,
)
from chorus_common.runtime.store_path import StorePath
from stage2_distill.commands.options import run_folder_option, val_split_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stage2_distill.settings import TrainConfig


@click.command("train")
@stores_option()
@manifest_option(default="every scene of the stores")
@split_option("Split of the manifest to train on.  [default: train]")
@val_split_option
@config_option("docs/guide/train.md")
@set_option()
@click.option(
    "--gaussian-features", multiple=True, metavar="TEACHER=FOLDER",
    help="Features per Gaussian (chorus-stage2 field export) in place of this teacher's lifted ones. May be given "
    "several times.",
)  # fmt: skip
@run_folder_option
@device_option()
def train_command(
    stores: tuple[StorePath, ...],
    manifest: StorePath | None,
    split: str | None,
    val_split: str | None,
    config_path: Path | None,
    settings: tuple[str, ...],
    gaussian_features: tuple[str, ...],
    out: Path,
    device: str,
) -> None:
    """Train a student from teacher caches.

    The same command goes on with the run in OUT.
    """
    from chorus_common.runtime.config import load_config
    from stage2_distill.settings import TrainConfig

    config = load_config(TrainConfig, config_path, settings)
    run_training(config, stores, manifest, split, val_split, out, device, gaussian_features)


def run_training(
    config: TrainConfig,
    stores: Sequence[StorePath],
    manifest: StorePath | None,
    split: str | None,
    val_split: str | None,
    out: Path,
    device: str,
    gaussian_features: Sequence[str] = (),
) -> None:
    """Find scenes and standardisers, train, and say how it went. gaussian_features: "TEACHER=FOLDER" each."""
    if val_split is not None and manifest is None:
        raise ConfigError(f"--val-split {val_split} needs --manifest, which says which scenes are in it")
    from chorus_common.runtime.devices import pick_device
    from stage2_distill.data.gaussian_teacher import give_features, parse_gaussian_features
    from stage2_distill.distill import train
    from stage2_distill.sources import find_scenes, open_scenes, read_standardisers, text_aligned
    from stage2_distill.start import TrainData

    split = split or ("train" if manifest is not None else None)
    scenes = open_scenes(find_scenes(stores, manifest, split, warn))
    validation = open_scenes(find_scenes(stores, manifest, val_split, warn)) if val_split is not None else []
    standardisers = read_standardisers(stores, [*scenes, *validation], config.teachers)
    folders = parse_gaussian_features(gaussian_features)
    scenes, validation = give_features(scenes, folders), give_features(validation, folders)
    warn(f"{len(scenes)} scenes, {len(validation)} for validation, teachers {', '.join(standardisers)}")
    data = TrainData(scenes, validation, standardisers, text_aligned(scenes, standardisers))
    result = train(config, data, out, pick_device(device))
    skipped = f", {result.skipped} skipped as not finite" if result.skipped else ""
    warn(f"{out}: {result.steps} steps{skipped}; waiting for data took {result.starvation:.1%} of the time")


def warn(line: str) -> None:
    """One line for the user, from one of torchrun's processes."""
    from stage2_distill.engine.distributed import is_main_process

    if is_main_process():
        click.echo(line, err=True)
