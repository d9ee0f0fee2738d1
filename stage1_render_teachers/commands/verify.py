"""chorus-stage1 verify: every byte of the published scenes."""

from __future__ import annotations

import json

import click

from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED
from chorus_common.runtime.progress import progress
from chorus_common.runtime.store_path import StorePath
from stage1_render_teachers.commands.options import scene_options


@click.command("verify")
@scene_options
def verify_command(manifest: StorePath, store: StorePath, split: str | None, dataset: str | None, as_json: bool) -> int:
    """Check every byte of every published scene."""
    from chorus_common.cache import published_scenes, verify_store
    from chorus_common.manifest import Manifest
    from stage1_render_teachers.rows import select_rows
    from stage1_render_teachers.store import require_store, scene_path

    rows = select_rows(Manifest.read(manifest), split, dataset)
    require_store(store)
    there = set(published_scenes(store))
    published = [row for row in rows if scene_path(store, row) in there]
    problems: dict[str, list[str]] = {}
    with progress(len(published), "verify") as report:
        for row in published:
            if found := verify_store(scene_path(store, row)):
                problems[f"{row.dataset}/{row.scene_id}"] = [f"{problem.where}: {problem.what}" for problem in found]
            report.advance(note=f"{len(problems)} damaged" if problems else "")
    if as_json:
        click.echo(json.dumps({"checked": len(published), "missing": len(rows) - len(published), "problems": problems}))
    else:
        for key, lines in problems.items():
            click.echo("\n".join(f"damaged: {key}: {line}" for line in lines))
        click.echo(
            f"{len(published)} scenes checked, {len(problems)} damaged, {len(rows) - len(published)} not published"
            + ("; run again with --overwrite to redo the damaged ones" if problems else "")
        )
    return EXIT_SOME_FAILED if problems else EXIT_DONE
