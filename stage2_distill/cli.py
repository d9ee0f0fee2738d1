"""chorus-stage2: train a student from a teacher cache, use it, export it, describe it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from chorus_common.errors import ConfigError, run_cli
from stage2_distill.commands.adapt import adapt_command
from stage2_distill.commands.field import field_command
from stage2_distill.commands.gaussiancross import gaussiancross_command
from stage2_distill.commands.train import train_command

FILE = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def cli() -> None:
    """Stage 2: distil cached teachers into one 3D encoder."""


@cli.command()
@click.argument("scene", type=FILE)
@click.option(
    "--encoder", "checkpoint", type=FILE, required=True, help="Folder of a student, or any published checkpoint."
)
@click.option("--out", type=FILE, required=True, help="Features, one row per Gaussian of SCENE, as .npy.")
@click.option("--dtype", type=click.Choice(["f16", "f32"]), default="f32", help="Number format of the features.")
@click.option("--teacher", help="Project into this teacher's own space instead of giving the encoder's features.")
@click.option(
    "--turns", type=click.IntRange(min=1), default=1, help="Yaw angles to encode SCENE at; features are their mean."
)
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
def encode(scene: Path, checkpoint: Path, out: Path, dtype: str, teacher: str | None, turns: int, device: str) -> None:
    """Features of every Gaussian of SCENE (any format that chorus_common.scene_io reads)."""
    import numpy as np
    import torch

    from chorus_common.atomic import atomic_path
    from chorus_common.scene_io import read_scene
    from stage2_distill.devices import pick_device
    from stage2_distill.encoder import load_encoder
    from stage2_distill.student import load_student
    from stage2_distill.turns import encode_turns

    target = pick_device(device)
    gaussians = read_scene(scene)
    if teacher is None:
        values = encode_turns(load_encoder(checkpoint).to(target).eval(), gaussians, turns).mean().numpy()
    else:
        student = load_student(checkpoint, target)
        student.basis(teacher)  # an unknown name is refused before the work, not after
        turned = encode_turns(student.encoder, gaussians, turns)
        passes = range(0, len(turned), 1 << 16)
        values = torch.cat([turned.in_teacher_space(student, teacher, a, a + (1 << 16)) for a in passes]).numpy()
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


cli.add_command(train_command)
cli.add_command(adapt_command)
cli.add_command(field_command)
cli.add_command(gaussiancross_command)


def main() -> None:
    """Entry point of `chorus-stage2`."""
    run_cli(cli)


if __name__ == "__main__":
    main()
