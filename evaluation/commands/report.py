"""chorus-eval report."""

from __future__ import annotations

from pathlib import Path

import click

from chorus_common.runtime.errors import EXIT_DONE
from chorus_common.runtime.options import FOLDER, json_option, out_option
from evaluation.results import command_line


@click.command("report")
@click.option("--run", type=FOLDER, required=True, help="Folder with result files.")
@out_option("Folder of the report: report.html, pictures, results.json.")
@click.option("--scene", help="Scene of the pictures.  [default: the first that was evaluated]")
@click.option("--views", type=click.IntRange(min=0), default=3, help="Views to show.")
@click.option(
    "--query",
    "queries",
    multiple=True,
    help="Text to draw a heat map for. May be given several times.  [default: classes in view]",
)
@click.option("--gallery", type=click.IntRange(min=0), default=3, help="Worst scenes to show of a fine-tuning result.")
@click.option("--seconds", type=float, help="How long the whole run took, for results.json.")
@json_option("Print results.json instead of the tables.")
def report_command(
    run: Path,
    out: Path,
    scene: str | None,
    views: int,
    queries: tuple[str, ...],
    gallery: int,
    seconds: float | None,
    as_json: bool,
) -> int:
    """Make one page of the results of a run.

    The page holds tables with their commands, pictures and curves, and needs no other file.
    """
    from evaluation.report.build import ReportConfig, build_report

    config = ReportConfig(scene=scene, views=views, queries=queries, seconds=seconds, gallery=gallery)
    built = build_report(run, out, config, command_line())
    for note in built.notes:
        click.echo(note, err=True)
    if as_json:
        import json

        click.echo(json.dumps(built.results, indent=1))
    else:
        for title, table in built.tables.items():
            click.echo(f"{title}\n{table}\n")
        click.echo(f"report: {built.page}")
    return EXIT_DONE
