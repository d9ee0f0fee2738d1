"""chorus-data check: what a scene is, and what would go wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED
from chorus_common.runtime.options import PATH, alignment_options, json_option, reading_options

if TYPE_CHECKING:
    from chorus_common.scene_check import AlignmentSettings


@click.command("check")
@click.argument("scene", type=PATH)
@click.option("--cameras", type=PATH, help="Cameras of the scene: a COLMAP folder, transforms.json, a pose folder.")
@click.option("--plan", type=PATH, help="Write the plan with the viewpoints as a PNG.")
@alignment_options()
@reading_options()
@json_option()
def check_command(
    scene: Path,
    cameras: Path | None,
    plan: Path | None,
    alignment: AlignmentSettings,
    max_gaussians: int,
    lod: int,
    as_json: bool,
) -> int:
    """Check a scene before a long run.

    Looks at the rows, the render mode, what kind of scene it is, which way is up, the size, stray Gaussians, and
    whether the cameras belong to the scene. Every finding says what it is, how sure it is and what to do. A plan shows
    from where the scene would be looked at. The exit code is 1 where the scene cannot be used.
    """
    from chorus_common.camera_io import read_cameras
    from chorus_common.scene_io import read_scene
    from chorus_common.viewpoints.plan import text_plan, write_plan
    from data_manifests.check import check_scene

    report = check_scene(
        read_scene(scene, max_gaussians=max_gaussians, lod=lod),
        alignment,
        None if cameras is None else read_cameras(cameras),
    )
    if plan is not None:
        write_plan(plan, report.survey)
    if as_json:
        click.echo(json.dumps({"scene": str(scene)} | report.as_dict(), indent=2))
    else:
        for finding in report.findings:
            click.echo(finding.line())
        if report.survey.kind == "interior":
            click.echo("\nplan (# matter at eye height, letters rooms, * viewpoints):")
            click.echo(text_plan(report.survey))
    return EXIT_DONE if report.usable else EXIT_SOME_FAILED
