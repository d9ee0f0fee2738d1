"""`chorus-data inspect`: what a scene or a manifest holds."""

from __future__ import annotations

import json
from pathlib import Path

import click

from chorus_common.runtime.errors import EXIT_DONE
from chorus_common.runtime.options import PATH, json_option, reading_options


@click.command("inspect")
@click.argument("path", type=PATH)
@json_option()
@reading_options()
def inspect_command(path: Path, as_json: bool, max_gaussians: int, lod: int) -> int:
    """Describe a scene or a manifest.

    Prints counts, extents and ranges of what lies at PATH.
    """
    from data_manifests.inspection import inspect_path, summary_lines

    report = inspect_path(path, max_gaussians=max_gaussians, lod=lod)
    click.echo(json.dumps(report, indent=2) if as_json else "\n".join(summary_lines(report)))
    return EXIT_DONE
