"""chorus-stage2 gaussiancross: pretrain an encoder by rendering Gaussians into posed RGB-D views."""

from __future__ import annotations

import json
from pathlib import Path

import click

from chorus_common.runtime.errors import ConfigError
from chorus_common.runtime.options import (
    PATH,
    config_option,
    device_option,
    json_option,
    manifest_option,
    set_option,
    split_option,
    stores_option,
)
from chorus_common.runtime.store_path import StorePath
from stage2_distill.commands.options import run_folder_option


@click.command("gaussiancross")
@stores_option()
@manifest_option(default="every scene of the stores")
@split_option("Split of the manifest to learn from.  [default: train]")
@click.option(
    "--captures",
    type=PATH,
    help="Folder of posed RGB-D captures, <dataset>/<scene> or <scene> each.  [default: pictures kept in the cache]",
)
@click.option("--depth-unit", default=0.001, help="Metres per count of the captures' depth pictures.")
@config_option("docs/guide/gaussiancross.md")
@set_option()
@run_folder_option
@device_option()
@json_option("Print one JSON object at the end.")
def gaussiancross_command(
    stores: tuple[StorePath, ...],
    manifest: StorePath | None,
    split: str | None,
    captures: Path | None,
    depth_unit: float,
    config_path: Path | None,
    settings: tuple[str, ...],
    out: Path,
    device: str,
    as_json: bool,
) -> None:
    """Pretrain an encoder by rendering (GaussianCross).

    It learns from point clouds with posed RGB-D views. The same command goes on with the run in OUT.
    """
    from chorus_common.runtime.config import load_config
    from stage2_distill.gaussiancross.settings import GaussianCrossConfig

    config = load_config(GaussianCrossConfig, config_path, settings)
    if captures is not None and not captures.is_dir():
        raise ConfigError(f"--captures {captures}: no such folder")
    from chorus_common.runtime.devices import pick_device
    from stage2_distill.commands.train import warn
    from stage2_distill.engine.distributed import is_main_process
    from stage2_distill.gaussiancross.recipe import pretrain
    from stage2_distill.gaussiancross.scenes import open_capture_scenes

    split = split or ("train" if manifest is not None else None)
    data = open_capture_scenes(stores, manifest, split, captures, depth_unit, config, warn)
    teachers = ", ".join(data.channels) or "none"
    warn(f"{len(data.scenes)} scenes, teachers {teachers}")
    result = pretrain(config, data, out, pick_device(device))
    if not is_main_process():
        return
    facts = {
        "out": str(out), "steps": result.steps, "skipped": result.skipped, "starvation": round(result.starvation, 4),
        "effective_rank": round(result.effective_rank, 2), "width": result.width,
    }  # fmt: skip
    if as_json:
        click.echo(json.dumps(facts, sort_keys=True))
    else:
        skipped = f", {result.skipped} skipped as not finite" if result.skipped else ""
        click.echo(
            f"{out}: {result.steps} steps{skipped}; effective rank of the features {result.effective_rank:.1f} of "
            f"{result.width}; waiting for data took {result.starvation:.1%} of the time",
            err=True,
        )
