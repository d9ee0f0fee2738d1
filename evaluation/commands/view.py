"""chorus-eval view."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from chorus_common.runtime.errors import EXIT_DONE
from chorus_common.runtime.options import PATH, alignment_options, reading_options
from evaluation.commands.options import (
    lifted_option,
    prompts_option,
    seen_classes_option,
    seen_labels_option,
    space_option,
    text_source_options,
)

if TYPE_CHECKING:
    from chorus_common.scene_check import AlignmentSettings
    from evaluation.sources import SourceOptions


@click.command("view")
@click.argument("scene", type=PATH)
@text_source_options
@lifted_option
@prompts_option
@seen_classes_option
@seen_labels_option
@space_option
@alignment_options()
@reading_options()
@click.option("--host", default="127.0.0.1", help="Address to listen on. Others can reach anything but 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, help="Port to listen on; 0 takes any free one.")
def view_command(
    scene: Path,
    sources: SourceOptions,
    prompts: str,
    classes: str,
    labels: Path | None,
    label_space: str,
    host: str,
    port: int,
    alignment: AlignmentSettings,
    max_gaussians: int,
    lod: int,
) -> int:
    """Look at a scene in a browser.

    Shows colour, features, prediction, labels, ground truth, objects, what is like a clicked Gaussian, and the answer
    to a typed query. Saves pictures and videos.

    SCENE is a scene file or folder of any format, or a store's <scene>.zarr. Without features only colour, labels and
    ground truth are shown.
    """
    from evaluation.scenes import scene_at
    from evaluation.viewer.open_model import open_model
    from evaluation.viewer.server import ViewerServer

    where = scene_at(scene, alignment, lod=lod, max_gaussians=max_gaussians)
    model = open_model(where, sources, classes=classes, label_space=label_space, prompts=prompts, labels=labels)
    server = ViewerServer(model, host=host, port=port)
    click.echo(f"open {server.address} (Ctrl-C ends)")
    try:
        server.serve()
    finally:
        server.close()
    return EXIT_DONE
