"""chorus-stage2 export."""

from __future__ import annotations

from pathlib import Path

import click

from chorus_common.runtime.options import PATH, out_option


@click.command("export")
@click.argument("checkpoint", type=PATH)
@click.option(
    "--format", "kind", default="chorus",
    help="Layout: chorus (our folder), or a published one: sonata, concerto, scenesplat, ptv3, litept.",
)  # fmt: skip
@click.option("--preset", help="What CHECKPOINT is, for a published file of a width that no preset has.")
@out_option("Where the exported encoder goes.")
def export_command(checkpoint: Path, kind: str, preset: str | None, out: Path) -> None:
    """Write the encoder of a checkpoint alone.

    It has our layout, or that of the published model with the architecture of CHECKPOINT.
    """
    from stage2_distill.encoder import export_encoder, load_encoder

    export_encoder(load_encoder(checkpoint, preset=preset), out, kind)
    click.echo(f"{out}: exported as {kind}", err=True)
