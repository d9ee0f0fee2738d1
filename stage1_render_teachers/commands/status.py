"""chorus-stage1 status: where a store stands."""

from __future__ import annotations

import json

import click

from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED
from chorus_common.runtime.store_path import StorePath
from stage1_render_teachers.commands.options import scene_options


@click.command("status")
@scene_options
@click.option(
    "--at-least",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="End with 0 if so much of the scenes is done, else with 1.",
)
def status_command(
    manifest: StorePath, store: StorePath, split: str | None, dataset: str | None, as_json: bool, at_least: float | None
) -> int:  # fmt: skip
    """Tell which scenes are done, failed and pending.

    Also: why scenes failed, how fast the work goes, the time left, the size and the coverage.
    """
    from chorus_common.manifest import Manifest
    from stage1_render_teachers.rows import select_rows
    from stage1_render_teachers.status import describe, store_status

    state = store_status(select_rows(Manifest.read(manifest), split, dataset), store)
    click.echo(json.dumps(state.as_dict()) if as_json else describe(state))
    if at_least is not None:
        enough = state.done >= at_least * state.total
        if not enough:
            click.echo(f"error: {state.done} of {state.total} scenes are done, --at-least {at_least:g}", err=True)
        return EXIT_DONE if enough else EXIT_SOME_FAILED
    return EXIT_SOME_FAILED if state.failed else EXIT_DONE
