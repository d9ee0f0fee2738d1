"""chorus-stage1 status: where a store stands."""

from __future__ import annotations

import json
from pathlib import Path

import click

from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED
from chorus_common.runtime.store_path import StorePath
from stage1_render_teachers.commands.options import scene_options


@click.command("status")
@scene_options
def status_command(manifest: Path, store: StorePath, split: str | None, dataset: str | None, as_json: bool) -> int:
    """Tell which scenes are done, failed and pending.

    Also: why scenes failed, how fast the work goes, the time left, the size and the coverage.
    """
    from chorus_common.manifest import Manifest
    from stage1_render_teachers.rows import select_rows
    from stage1_render_teachers.status import describe, store_status

    state = store_status(select_rows(Manifest.read(manifest), split, dataset), store)
    click.echo(json.dumps(state.as_dict()) if as_json else describe(state))
    return EXIT_SOME_FAILED if state.failed else EXIT_DONE
