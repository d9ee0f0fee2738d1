"""chorus-stage1 calibrate: the standardisers of the dense teachers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus_common.runtime.errors import EXIT_DONE
from chorus_common.runtime.options import reading_options
from chorus_common.runtime.progress import progress
from chorus_common.runtime.store_path import StorePath
from stage1_render_teachers.commands.options import run_config, scene_options, stage1_config, work_options

if TYPE_CHECKING:
    from chorus_common.scene_check import AlignmentSettings


@click.command("calibrate")
@scene_options
@work_options
@reading_options("the manifest's")
def calibrate_command(
    manifest: StorePath, store: StorePath, split: str | None, dataset: str | None, as_json: bool,
    teachers: tuple[str, ...], config_path: Path | None, settings: tuple[str, ...], alignment: AlignmentSettings,
    max_gaussians: int | None, lod: int | None, overwrite: bool, **how: Any,
) -> int:  # fmt: skip
    """Fit the PHI-S standardisers that the store lacks.

    `run` does so by itself. With --overwrite all standardisers are fitted again.
    """
    from chorus_common.cluster.pool import open_pool
    from chorus_common.manifest import Manifest
    from stage1_render_teachers.calibrate import calibrate, missing_standardisers
    from stage1_render_teachers.plan import teacher_facts
    from stage1_render_teachers.rows import select_rows
    from stage1_render_teachers.store import prepare_store

    config, run = stage1_config(config_path, settings, teachers, alignment), run_config(**how)
    rows = select_rows(Manifest.read(manifest), split, dataset, lod=lod, max_gaussians=max_gaussians)
    prepare_store(store)
    facts = teacher_facts(config, run)
    wanted = tuple(fact for fact in facts if fact.dense) if overwrite else missing_standardisers(store, facts)
    paths: list[StorePath] = []
    if wanted:
        with open_pool(run) as pool, progress(min(config.calibration.scenes, len(rows)), "calibration") as report:
            paths = calibrate(rows, store, wanted, config, run.device, pool, report, overwrite=overwrite)
    if as_json:
        click.echo(json.dumps({"fitted": [str(path) for path in paths]}))
    elif paths:
        click.echo("\n".join(f"fitted {path}" for path in paths))
    else:
        click.echo("all standardisers are there; --overwrite fits them again")
    return EXIT_DONE
