"""chorus-stage2: train a student from a teacher cache, use it, export it, describe it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from chorus_common.errors import ConfigError, run_cli
from stage2_distill.commands.gaussiancross import gaussiancross_command

FILE = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def cli() -> None:
    """Stage 2: distil cached teachers into one 3D encoder."""


@cli.command()
@click.option(
    "--store", "stores", type=FILE, multiple=True, required=True, help="Cache root of stage 1; repeat to mix several."
)
@click.option(
    "--manifest",
    type=FILE,
    help="Manifest that says which scenes are in --split. Without it: every scene of the stores.",
)
@click.option("--split", help="Split of the manifest to train on.  [default: train]")
@click.option("--val-split", help="Split of the manifest to validate on; keeps the best student in OUT/best.")
@click.option("--config", "config_path", type=FILE, help="Settings as TOML (docs/training.md).")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="One setting, over the file's; repeat as needed."
)
@click.option(
    "--out",
    type=FILE,
    required=True,
    help="Folder of the run; the student is saved in it. Same command again: goes on.",
)
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
def train(
    stores: tuple[Path, ...],
    manifest: Path | None,
    split: str | None,
    val_split: str | None,
    config_path: Path | None,
    settings: tuple[str, ...],
    out: Path,
    device: str,
) -> None:
    """Train a student, or go on with the run in OUT."""
    from chorus_common.config import load_config
    from stage2_distill.settings import TrainConfig

    config = load_config(TrainConfig, config_path, settings)
    if val_split is not None and manifest is None:
        raise ConfigError(f"--val-split {val_split} needs --manifest, which says which scenes are in it")
    from stage2_distill.sources import find_scenes, open_scenes, read_bases, text_aligned
    from stage2_distill.trainer import TrainData
    from stage2_distill.trainer import train as run

    split = split or ("train" if manifest is not None else None)
    scenes = open_scenes(find_scenes(stores, manifest, split, warn))
    validation = open_scenes(find_scenes(stores, manifest, val_split, warn)) if val_split is not None else []
    bases = read_bases(stores, [*scenes, *validation], config.teachers)
    click.echo(f"{len(scenes)} scenes, {len(validation)} for validation, teachers {', '.join(bases)}", err=True)
    data = TrainData(scenes, validation, bases, text_aligned(scenes, bases))
    result = run(config, data, out, pick_device(device))
    skipped = f", {result.skipped} skipped as not finite" if result.skipped else ""
    click.echo(
        f"{out}: {result.steps} steps{skipped}; waiting for data took {result.starvation:.1%} of the time", err=True
    )


@cli.command()
@click.argument("scene", type=FILE)
@click.option(
    "--encoder", "checkpoint", type=FILE, required=True, help="Folder of a student, or any published checkpoint."
)
@click.option("--out", type=FILE, required=True, help="Features, one row per Gaussian of SCENE, as .npy.")
@click.option("--dtype", type=click.Choice(["f16", "f32"]), default="f32", help="Number format of the features.")
@click.option("--teacher", help="Project into this teacher's own space instead of giving the encoder's features.")
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
def encode(scene: Path, checkpoint: Path, out: Path, dtype: str, teacher: str | None, device: str) -> None:
    """Features of every Gaussian of SCENE (any format that chorus_common.scene_io reads)."""
    import numpy as np
    import torch

    from chorus_common.atomic import atomic_path
    from chorus_common.scene_io import read_scene
    from stage2_distill.encode import encode_scene
    from stage2_distill.encoder import load_encoder
    from stage2_distill.student import load_student

    target = pick_device(device)
    gaussians = read_scene(scene)
    with torch.no_grad():
        if teacher is None:
            features = encode_scene(load_encoder(checkpoint).to(target).eval(), gaussians)
        else:
            student = load_student(checkpoint, target)
            student.basis(teacher)  # an unknown name is refused before the work, not after
            latent = torch.as_tensor(encode_scene(student.encoder, gaussians), device=target)
            features = torch.cat([student.to_teacher_space(teacher, part) for part in latent.split(1 << 16)])
    values = torch.as_tensor(features).float().cpu().numpy()
    with atomic_path(out) as temporary, open(temporary, "wb") as handle:
        np.save(handle, values.astype(np.float16 if dtype == "f16" else np.float32))
    click.echo(f"{out}: {values.shape[0]} Gaussians x {values.shape[1]} channels", err=True)


@cli.command()
@click.argument("checkpoint", type=FILE)
@click.option("--format", "kind", default="chorus", help="Layout of the exported weights: chorus, or a published one.")
@click.option("--out", type=FILE, required=True, help="Where the exported encoder goes.")
def export(checkpoint: Path, kind: str, out: Path) -> None:
    """Write the encoder of CHECKPOINT alone, in our layout or in that of the published model with its architecture."""
    from stage2_distill.encoder import export_encoder, load_encoder

    export_encoder(load_encoder(checkpoint), out, kind)
    click.echo(f"{out}: exported as {kind}", err=True)


@cli.command()
@click.option("--preset", help="A preset's architecture.")
@click.option("--encoder", "checkpoint", type=FILE, help="A checkpoint's architecture.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def info(preset: str | None, checkpoint: Path | None, as_json: bool) -> None:
    """What an encoder is: inputs, outputs, parameters, teachers."""
    if (preset is None) == (checkpoint is None):
        raise ConfigError("info takes either --preset or --encoder")
    facts = describe(preset, checkpoint)
    if as_json:
        click.echo(json.dumps(facts, sort_keys=True))
        return
    for key, value in facts.items():
        if key != "config":
            click.echo(f"{key:14} {value}")


def describe(preset: str | None, checkpoint: Path | None) -> dict[str, Any]:
    """Facts about a preset or a checkpoint, as JSON values."""
    from stage2_distill.encoder import build_encoder, load_encoder
    from stage2_distill.student import read_student_config

    if preset is not None:
        encoder = build_encoder(preset)
    else:
        assert checkpoint is not None
        encoder = load_encoder(checkpoint)
    config = encoder.config
    facts: dict[str, Any] = {
        "name": config.name,
        "n_parameters": sum(p.numel() for p in encoder.parameters()),
        "inputs": list(config.inputs.features),
        "grid_size": config.inputs.grid_size,
        "color_range": config.inputs.color_range,
        "in_channels": config.in_channels,
        "out_channels": encoder.out_channels,
        "config": config.model_dump(mode="json"),
    }
    if checkpoint is not None and (checkpoint / "train.json").exists():
        facts["teachers"] = {n: t.model_dump() for n, t in read_student_config(checkpoint).teachers.items()}
    return facts


def pick_device(name: str) -> Any:
    """The torch device of that name; "auto" is CUDA where there is one. Under torchrun each process has its own."""
    import os

    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name}: use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(f"--device {name}: no CUDA device on this machine; use --device cpu")
        torch.cuda.set_device(device)
    return device


def warn(line: str) -> None:
    click.echo(line, err=True)


cli.add_command(gaussiancross_command)


def main() -> None:
    """Entry point of `chorus-stage2`."""
    run_cli(cli)


if __name__ == "__main__":
    main()
