"""chorus-stage1 export: folders of features per Gaussian from caches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED, ConfigError
from chorus_common.runtime.options import FOLDER, out_option
from chorus_common.runtime.store_path import StorePath
from stage1_render_teachers.commands.options import exchange_options, how_options, run_config, summary_line


@click.command("export")
@exchange_options
@out_option("Folder of the folders: OUT/<data set>/<split>/<scene id>.", FOLDER)
@click.option(
    "--teachers",
    multiple=True,
    metavar="NAME=TEACHER",
    help="Write NAME_feat.npy from this teacher. May be given several times.  [default: all dense teachers]",
)
@click.option("--unit", is_flag=True, help="Scale every vector to length 1.")
@how_options
def export_command(
    manifest: StorePath | None, store: StorePath, split: str | None, dataset: str | None, as_json: bool, out: Path,
    teachers: tuple[str, ...], unit: bool, **how: Any,
) -> int:  # fmt: skip
    """Write caches as folders with features per Gaussian, for other programs.

    Without a manifest every scene of the store is written, to OUT/<data set>/<scene id>. The folders are those of
    SceneSplat and of the released Chorus: NAME_feat.npy with NAME_feat_index.npy. The same command goes on where an
    earlier export stopped.
    """
    from chorus_common.manifest import Manifest
    from stage1_render_teachers.exchange.export_run import published_rows, run_export
    from stage1_render_teachers.exchange.teacher_options import parse_teachers
    from stage1_render_teachers.rows import select_rows

    if manifest is None and split is not None:
        raise ConfigError(f"--split {split} needs --manifest, which says which scenes are in it")
    rows = published_rows(store, dataset) if manifest is None else select_rows(Manifest.read(manifest), split, dataset)
    names = parse_teachers(teachers, required=True)
    summary = run_export(rows, store, out, run_config(**how), names, unit=unit)
    click.echo(json.dumps(summary.as_dict()) if as_json else summary_line(summary, out))
    return EXIT_SOME_FAILED if summary.failures else EXIT_DONE
