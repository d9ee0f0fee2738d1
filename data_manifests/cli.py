"""chorus-data: make, index and look at scenes."""

from __future__ import annotations

import json
from pathlib import Path

import click

from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED, run_cli
from chorus_common.scene_io import MAX_GAUSSIANS
from data_manifests.commands.prepare import prepare_command
from data_manifests.index import build_manifest
from data_manifests.inspection import inspect_path, summary_lines


class _Commands(click.Group):
    """`synth` comes from the synthetic package, which loads compiled kernels: it is imported when it is called for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), "synth"})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "synth":
            from data_manifests.commands.synth import command

            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands)
def cli() -> None:
    """Make, index and look at 3D Gaussian Splatting scenes."""


@cli.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--root", type=click.Path(path_type=Path), help="Folder that a description's patterns start from.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Manifest to write.  [default: ROOT/manifest.parquet]"
)
@click.option("--skip-bad", is_flag=True, help="Leave out scenes that cannot be read, say so, and exit with 1.")
def index(source: Path, root: Path | None, output: Path | None, skip_bad: bool) -> int:
    """Index SOURCE (a TOML of data_manifests/, or a folder of scenes) into a manifest."""
    skipped: list[str] | None = [] if skip_bad else None
    manifest = build_manifest(source, root, skipped=skipped)
    path = manifest.write(output or manifest.root / "manifest.parquet")
    for line in skipped or []:
        click.echo(f"skipped: {line}", err=True)
    with_cameras = sum(row.cameras_path is not None for row in manifest)
    gaussians = sum(row.n_gaussians for row in manifest)
    click.echo(f"{path}: {len(manifest)} scenes, {gaussians} Gaussians, {with_cameras} with cameras")
    return EXIT_SOME_FAILED if skipped else EXIT_DONE


@cli.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--max-gaussians", default=MAX_GAUSSIANS, show_default=True, help="Refuse larger scenes.")
def inspect(path: Path, as_json: bool, max_gaussians: int) -> int:
    """Counts, extents and ranges of the scene or manifest at PATH."""
    report = inspect_path(path, max_gaussians=max_gaussians)
    click.echo(json.dumps(report, indent=2) if as_json else "\n".join(summary_lines(report)))
    return EXIT_DONE


cli.add_command(prepare_command)


def main() -> None:
    """Entry point of the program."""
    run_cli(cli)
