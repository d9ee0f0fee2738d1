"""chorus-stage1 run: publish the cache of every scene."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED
from chorus_common.runtime.options import reading_options
from chorus_common.runtime.store_path import StorePath
from stage1_render_teachers.commands.options import (
    run_config,
    scene_options,
    shard_option,
    stage1_config,
    summary_line,
    work_options,
)

if TYPE_CHECKING:
    from chorus_common.scene_check import AlignmentSettings


@click.command("run")
@scene_options
@work_options
@reading_options("the manifest's")
@shard_option()
@click.option(
    "--max-failures", type=click.IntRange(min=0), default=0, help="Stop after this many failed scenes; 0 goes on."
)
@click.option(
    "--retries", type=click.IntRange(min=0), default=1, help="More tries for what may pass, such as a silent bucket."
)
def run_command(
    manifest: StorePath, store: StorePath, split: str | None, dataset: str | None, as_json: bool,
    teachers: tuple[str, ...], config_path: Path | None, settings: tuple[str, ...], alignment: AlignmentSettings,
    max_gaussians: int | None, lod: int | None, shard: str, **how: Any,
) -> int:  # fmt: skip
    """Publish the cache of every scene.

    The same command goes on where an earlier run stopped.
    """
    from chorus_common.manifest import Manifest
    from stage1_render_teachers.rows import parse_shard, select_rows, shard_rows
    from stage1_render_teachers.run import run_stage1

    config, run = stage1_config(config_path, settings, teachers, alignment), run_config(**how)
    rows = select_rows(Manifest.read(manifest), split, dataset, lod=lod, max_gaussians=max_gaussians)
    index, count = parse_shard(shard)
    summary = run_stage1(shard_rows(rows, index, count), store, config, run, calibration_rows=rows)
    click.echo(json.dumps(summary.as_dict()) if as_json else summary_line(summary, store))
    return EXIT_SOME_FAILED if summary.failures or summary.mostly_empty else EXIT_DONE
