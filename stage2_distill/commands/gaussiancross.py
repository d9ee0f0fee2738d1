"""chorus-stage2 gaussiancross: pretrain an encoder by rendering Gaussians into posed RGB-D views."""

from __future__ import annotations

import json
from pathlib import Path

import click

from chorus_common.runtime.errors import ConfigError

FILE = click.Path(path_type=Path)


@click.command("gaussiancross")
@click.option(
    "--store", "stores", type=FILE, multiple=True, required=True, help="Cache root of stage 1; repeat to mix several."
)
@click.option("--manifest", type=FILE, help="Manifest that says which scenes are in --split.")
@click.option("--split", help="Split of the manifest to learn from.  [default: train]")
@click.option(
    "--captures",
    type=FILE,
    help="Folder of posed RGB-D captures, <dataset>/<scene> or <scene> each.  [default: pictures kept in the cache]",
)
@click.option("--depth-unit", default=0.001, help="Metres per count of the captures' depth pictures.")
@click.option("--config", "config_path", type=FILE, help="Settings as TOML (docs/guide/gaussiancross.md).")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="One setting, over the file's; repeat as needed."
)
@click.option("--out", type=FILE, required=True, help="Folder of the run and its encoder. Same command again: goes on.")
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def gaussiancross_command(
    stores: tuple[Path, ...],
    manifest: Path | None,
    split: str | None,
    captures: Path | None,
    depth_unit: float,
    config_path: Path | None,
    settings: tuple[str, ...],
    out: Path,
    device: str,
    as_json: bool,
) -> None:
    """Pretrain an encoder on point clouds with posed RGB-D views (GaussianCross), or go on with the run in OUT."""
    from chorus_common.runtime.config import load_config
    from stage2_distill.gaussiancross.settings import GaussianCrossConfig

    config = load_config(GaussianCrossConfig, config_path, settings)
    if captures is not None and not captures.is_dir():
        raise ConfigError(f"--captures {captures}: no such folder")
    from stage2_distill.commands.train import warn
    from stage2_distill.devices import pick_device
    from stage2_distill.gaussiancross.scenes import open_capture_scenes
    from stage2_distill.gaussiancross.trainer import Pretrainer

    split = split or ("train" if manifest is not None else None)
    data = open_capture_scenes(stores, manifest, split, captures, depth_unit, config, warn)
    teachers = ", ".join(data.channels) or "none"
    click.echo(f"{len(data.scenes)} scenes, teachers {teachers}", err=True)
    result = Pretrainer(config, data.scenes, data.channels, data.identity, out, pick_device(device)).run()
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
