"""chorus-stage2 info."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus_common.runtime.errors import ConfigError
from chorus_common.runtime.options import PATH, json_option

if TYPE_CHECKING:
    from stage2_distill.encoder import Encoder
    from stage2_distill.student import Student


@click.command("info")
@click.option("--preset", help="A preset's architecture.")
@click.option("--encoder", "checkpoint", type=PATH, help="A checkpoint, as a path or a name.")
@json_option()
def info_command(preset: str | None, checkpoint: Path | None, as_json: bool) -> None:
    """Describe an encoder.

    Prints its inputs, outputs, parameters, teachers, and where its weights come from.
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
    import torch

    from stage2_distill.encoder import build_encoder, load_encoder
    from stage2_distill.student import is_student, load_student

    student = None
    if preset is not None:
        with torch.device("meta"):
            encoder = build_encoder(preset)
            student = preset_student(encoder)
    else:
        assert checkpoint is not None
        student = load_student(checkpoint) if is_student(checkpoint) else None
        encoder = load_encoder(checkpoint) if student is None else student.encoder
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
    if student is not None:
        facts["n_parameters_with_projectors"] = sum(p.numel() for p in student.parameters())
        facts["teachers"] = {n: t.model_dump() for n, t in student.config.teachers.items()}
    if encoder.source is not None:
        facts["weights"] = encoder.source.origin().model_dump()
    return facts


def preset_student(encoder: Encoder) -> Student | None:
    """A preset with the projectors it is trained with: the release's, or for chorus-lite the defaults of training on
    the same teachers; None for others.
    """
    from stage2_distill.release import published_teachers
    from stage2_distill.settings import TrainConfig
    from stage2_distill.student import Student, StudentTeacher

    fields = published_teachers(encoder.out_channels)
    if encoder.config.name == "chorus-lite":
        train = TrainConfig()
        ours = {"hidden": train.projector_hidden, "projector": train.projector_layout, "space": "standardised"}
        fields = {name: values | ours for name, values in fields.items()}
    elif encoder.config.name not in ("chorus-3dgs", "chorus-pts"):
        return None
    return Student(encoder, {name: StudentTeacher.model_validate(values) for name, values in fields.items()})
