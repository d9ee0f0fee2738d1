"""chorus-stage2: train a student from a teacher cache, use it, export it, describe it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus_common.runtime.errors import ConfigError, run_cli
from stage2_distill.commands.adapt import adapt_command
from stage2_distill.commands.encode import encode_command
from stage2_distill.commands.field import field_command
from stage2_distill.commands.gaussiancross import gaussiancross_command
from stage2_distill.commands.train import train_command

if TYPE_CHECKING:
    from stage2_distill.encoder import Encoder
    from stage2_distill.student import Student

FILE = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def cli() -> None:
    """Stage 2: distil cached teachers into one 3D encoder."""


@cli.command()
@click.argument("checkpoint", type=FILE)
@click.option(
    "--layout",
    "--format",
    "kind",
    default="chorus",
    help="chorus (our folder, ready for the hub), release (a student as a checkpoint of the released Chorus), or, for "
    "the encoder alone, another published layout: sonata, concerto, utonia, scenesplat, ptv3, litept.",
)
@click.option("--preset", help="What CHECKPOINT is, for a published file of a width that no preset has.")
@click.option("--encoder-only", is_flag=True, help="Of a student, its encoder without projectors.")
@click.option("--out", type=FILE, required=True, help="Where the exported weights go.")
def export(checkpoint: Path, kind: str, preset: str | None, encoder_only: bool, out: Path) -> None:
    """Write CHECKPOINT (a path, or weights by name) in another layout.

    A student stays one, projectors included, in the layouts chorus and release; the others hold an encoder alone.
    """
    from stage2_distill.encoder import export_encoder, load_encoder
    from stage2_distill.student import export_release, is_student, load_student, save_student

    if kind == "release":
        export_release(load_student(checkpoint), out)
    elif kind == "chorus" and preset is None and not encoder_only and is_student(checkpoint):
        save_student(load_student(checkpoint), out)
    else:
        export_encoder(load_encoder(checkpoint, preset=preset), out, kind)
    click.echo(f"{out}: exported as {kind}", err=True)


@cli.command()
@click.option("--preset", help="A preset's architecture.")
@click.option("--encoder", "checkpoint", type=FILE, help="A checkpoint's architecture.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def info(preset: str | None, checkpoint: Path | None, as_json: bool) -> None:
    """What an encoder is: inputs, outputs, parameters, teachers, origin."""
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
