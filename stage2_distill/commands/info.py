"""chorus-stage2 info."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from chorus_common.runtime.errors import ConfigError
from chorus_common.runtime.options import PATH, json_option


@click.command("info")
@click.option("--preset", help="A preset's architecture.")
@click.option("--encoder", "checkpoint", type=PATH, help="A checkpoint's architecture.")
@json_option()
def info_command(preset: str | None, checkpoint: Path | None, as_json: bool) -> None:
    """Describe an encoder.

    Prints its inputs, outputs, parameters and teachers.
    """
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
