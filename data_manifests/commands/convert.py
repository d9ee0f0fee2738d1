"""chorus-data convert: one scene file from another."""

from __future__ import annotations

import json
from pathlib import Path

import click

from chorus_common.runtime.errors import EXIT_DONE
from chorus_common.runtime.options import PATH, json_option, reading_options


@click.command("convert")
@click.argument("source", metavar="IN", type=PATH)
@click.argument("out", type=PATH)
@reading_options()
@click.option("--drop-outliers", is_flag=True, help="Leave out rows that lie too far for any scene.")
@json_option()
def convert_command(source: Path, out: Path, lod: int, max_gaussians: int, drop_outliers: bool, as_json: bool) -> int:
    """Write the scene IN as OUT: .ply, .spz, .sog or .glb, by its ending.

    Rows keep their order and their harmonics. A .ply made from a .ply keeps every property.
    """
    from chorus_common.scene_io.convert import convert

    done = convert(source, out, lod=lod, max_gaussians=max_gaussians, keep_outliers=not drop_outliers)
    if as_json:
        report = {"path": str(done.path), "format": done.format, "n_gaussians": done.n_gaussians, "lost": done.lost}
        click.echo(json.dumps(report))
        return EXIT_DONE
    click.echo(f"{done.path}: {done.n_gaussians} Gaussians")
    if done.lost:
        click.echo(f"{done.path}: .{done.format} has no room for {', '.join(done.lost)}", err=True)
    return EXIT_DONE
