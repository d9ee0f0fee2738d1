"""`chorus-data index`: scenes on a disk into a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED
from chorus_common.runtime.options import PATH, alignment_options, reading_options

if TYPE_CHECKING:
    from chorus_common.scene_check import AlignmentSettings


@click.command("index")
@click.argument("source", type=PATH)
@click.option("--root", type=PATH, help="Folder that a description's patterns start from.")
@click.option("-o", "--out", "output", type=PATH, help="Manifest to write.  [default: ROOT/manifest.parquet]")
@alignment_options()
@reading_options("the description's")
@click.option("--skip-bad", is_flag=True, help="Leave out scenes that cannot be read, say so, and exit with 1.")
def index_command(
    source: Path, root: Path | None, output: Path | None, alignment: AlignmentSettings, max_gaussians: int | None,
    lod: int | None, skip_bad: bool,
) -> int:  # fmt: skip
    """Index scenes into a manifest.

    SOURCE is a TOML file like those of data_manifests/, or a folder of scenes. What --up, --scale, --outliers and --lod
    say is kept for every scene, and later commands go by it.
    """
    from data_manifests.index import build_manifest

    skipped: list[str] | None = [] if skip_bad else None
    manifest = build_manifest(source, root, skipped=skipped, max_gaussians=max_gaussians, lod=lod, alignment=alignment)
    path = manifest.write(output or manifest.root / "manifest.parquet")
    for line in skipped or []:
        click.echo(f"skipped: {line}", err=True)
    with_cameras = sum(row.cameras_path is not None for row in manifest)
    gaussians = sum(row.n_gaussians for row in manifest)
    click.echo(f"{path}: {len(manifest)} scenes, {gaussians} Gaussians, {with_cameras} with cameras")
    return EXIT_SOME_FAILED if skipped else EXIT_DONE
