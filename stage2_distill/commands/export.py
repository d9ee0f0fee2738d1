"""chorus-stage2 export."""

from __future__ import annotations

from pathlib import Path

import click

from chorus_common.runtime.options import PATH, out_option


@click.command("export")
@click.argument("checkpoint", type=PATH)
@click.option(
    "--layout", "--format", "kind", default="chorus",
    help="Form of OUT: chorus (our folder, ready for the hub), release (a student as a checkpoint of the released "
    "Chorus), or, for the encoder alone, another published layout: sonata, concerto, utonia, scenesplat, ptv3, litept.",
)  # fmt: skip
@click.option("--preset", help="What CHECKPOINT is, for a published file of a width that no preset has.")
@click.option("--encoder-only", is_flag=True, help="Write a student's encoder without its projectors.")
@out_option("Where the exported weights go.")
def export_command(checkpoint: Path, kind: str, preset: str | None, encoder_only: bool, out: Path) -> None:
    """Write a checkpoint in another layout.

    CHECKPOINT is a path, or weights by name. A student stays one, projectors included, in the layouts chorus and
    release. The others hold an encoder alone.
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
