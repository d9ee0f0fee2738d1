"""chorus-stage2: train a student from a teacher cache, use it, export it, describe it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from chorus_common.runtime.errors import ConfigError, run_cli
from stage2_distill.commands.adapt import adapt_command
from stage2_distill.commands.encode import encode_command
from stage2_distill.commands.field import field_command
from stage2_distill.commands.gaussiancross import gaussiancross_command
from stage2_distill.commands.train import train_command

FILE = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def cli() -> None:
    """Stage 2: distil cached teachers into one 3D encoder."""


@cli.command()
@click.argument("checkpoint", type=FILE)
@click.option(
    "--format",
    "kind",
    default="chorus",
    help="chorus (our folder), or a published layout: sonata, concerto, scenesplat, ptv3, litept.",
)
@click.option("--preset", help="What CHECKPOINT is, for a published file of a width that no preset has.")
@click.option("--out", type=FILE, required=True, help="Where the exported encoder goes.")
def export(checkpoint: Path, kind: str, preset: str | None, out: Path) -> None:
    """Write the encoder of CHECKPOINT alone, in our layout or in that of the published model with its architecture."""
    from stage2_distill.encoder import export_encoder, load_encoder

    export_encoder(load_encoder(checkpoint, preset=preset), out, kind)
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
        if isinstance(value, dict) and key != "config":
            click.echo(key)
            for name, part in value.items():
                click.echo(f"  {name:18} {', '.join(map(str, part)) if isinstance(part, list | tuple) else part}")
        elif key != "config":
            click.echo(f"{key:20} {value}")


def describe(preset: str | None, checkpoint: Path | None) -> dict[str, Any]:
    """Facts about a preset or a checkpoint, as JSON values."""
    from stage2_distill.encoder import build_encoder, load_encoder
    from stage2_distill.encoder.checkpoints import read_folder_header
    from stage2_distill.student import read_student_config

    if preset is not None:
        encoder = build_encoder(preset)
    else:
        assert checkpoint is not None
        encoder = load_encoder(checkpoint)
    config = encoder.config
    facts: dict[str, Any] = {
        "preset": config.name,
        "n_parameters": sum(p.numel() for p in encoder.parameters()),
        "in_channels": config.in_channels,
        "out_channels": encoder.out_channels,
        "conventions": config.inputs.model_dump(mode="json")
        | {k: getattr(config, k) for k in ("order", "pooling", "pool_reduce", "depth_rule", "legacy_decoder_cpe")},
        "config": config.model_dump(mode="json"),
    }
    if checkpoint is not None and checkpoint.is_dir() and read_folder_header(checkpoint).format == "chorus-student":
        facts["teachers"] = {n: t.model_dump() for n, t in read_student_config(checkpoint).teachers.items()}
    return facts


cli.add_command(train_command)
cli.add_command(adapt_command)
cli.add_command(encode_command)
cli.add_command(field_command)
cli.add_command(gaussiancross_command)


def main() -> None:
    """Entry point of `chorus-stage2`."""
    run_cli(cli)


if __name__ == "__main__":
    main()
