"""chorus-stage1 import: caches from features that others lifted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED, ConfigError
from chorus_common.runtime.options import FOLDER, alignment_options, config_option, set_option
from chorus_common.runtime.store_path import StorePath
from stage1_render_teachers.commands.options import (
    exchange_options,
    how_options,
    run_config,
    shard_option,
    summary_line,
)

if TYPE_CHECKING:
    from chorus_common.scene_check import AlignmentSettings


@click.command("import")
@click.argument("folder", type=FOLDER, required=False)
@exchange_options
@click.option(
    "--teachers",
    multiple=True,
    metavar="NAME[=SPEC]",
    help="Take NAME_feat.npy as the teacher SPEC's, and call it NAME. May be given several times.  [default: all that "
    "is there]",
)
@click.option(
    "--rename",
    multiple=True,
    metavar="NAME=TEACHER",
    help="Call the teacher of NAME_feat.npy TEACHER in the store. May be given several times.",
)
@config_option("docs/guide/exchange.md")
@set_option()
@alignment_options()
@how_options
@shard_option()
def import_command(
    folder: Path | None, manifest: StorePath | None, store: StorePath, split: str | None, dataset: str | None,
    as_json: bool, teachers: tuple[str, ...], rename: tuple[str, ...], config_path: Path | None,
    settings: tuple[str, ...], alignment: AlignmentSettings, shard: str, **how: Any,
) -> int:  # fmt: skip
    """Publish caches from features per Gaussian that lie beside the scenes.

    FOLDER holds the scenes' folders, those of SceneSplat and of the released Chorus: NAME_feat.npy with
    NAME_feat_index.npy. A manifest of them does as well, and knows their splits and label spaces. The same command goes
    on where an earlier import stopped.
    """
    from chorus_common.manifest import Manifest
    from chorus_common.runtime.config import load_config
    from stage1_render_teachers.commands.options import aligned_settings
    from stage1_render_teachers.exchange.folder_rows import folder_rows
    from stage1_render_teachers.exchange.import_run import run_import
    from stage1_render_teachers.exchange.settings import ImportConfig
    from stage1_render_teachers.exchange.teacher_options import parse_teachers, store_names
    from stage1_render_teachers.rows import parse_shard, select_rows, shard_rows

    config = load_config(ImportConfig, config_path, [*settings, *aligned_settings(alignment)])
    if (folder is None) == (manifest is None):
        raise ConfigError("import: give FOLDER or --manifest, one of them")
    if manifest is not None:
        rows = select_rows(Manifest.read(manifest), split, dataset)
    else:
        assert folder is not None
        rows = [row for row in folder_rows(folder, dataset) if split in (None, row.split)]
    index, count = parse_shard(shard)
    specs = parse_teachers(teachers, required=False)
    summary = run_import(
        shard_rows(rows, index, count), store, config, run_config(**how), specs, store_names(specs, rename),
        calibration_rows=rows,
    )  # fmt: skip
    click.echo(json.dumps(summary.as_dict()) if as_json else summary_line(summary, store))
    return EXIT_SOME_FAILED if summary.failures else EXIT_DONE
