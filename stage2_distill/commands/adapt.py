"""chorus-stage2 adapt."""

from __future__ import annotations

from pathlib import Path

import click

from chorus_common.runtime.options import (
    PATH,
    config_option,
    device_option,
    manifest_option,
    set_option,
    split_option,
    stores_option,
)
from chorus_common.runtime.store_path import StorePath
from stage2_distill.commands.options import run_folder_option, val_split_option


@click.command("adapt")
@click.option("--student", type=PATH, required=True, help="Folder of the student to adapt.")
@stores_option()
@manifest_option(default="every scene of the stores")
@split_option("Split of the manifest to adapt to.  [default: train]")
@val_split_option
@config_option("docs/guide/adapt.md")
@set_option()
@run_folder_option
@device_option()
def adapt_command(
    student: Path,
    stores: tuple[StorePath, ...],
    manifest: StorePath | None,
    split: str | None,
    val_split: str | None,
    config_path: Path | None,
    settings: tuple[str, ...],
    out: Path,
    device: str,
) -> None:
    """Adapt a student to the scenes of another domain.

    It takes no labels and no lifted targets. The student's features are rendered through the cached matrix and compared
    with the teachers' pictures. Weights are trained in full, or through low-rank adapters with --set lora.rank=8.
    """
    from chorus_common.runtime.config import load_config
    from stage2_distill.commands.train import run_training
    from stage2_distill.settings import AdaptConfig

    config = load_config(AdaptConfig, config_path, (*settings, f"student={student}"))
    run_training(config, stores, manifest, split, val_split, out, device)
