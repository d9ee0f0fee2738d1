"""chorus-eval view."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from chorus_common.runtime.errors import EXIT_DONE, ConfigError
from chorus_common.runtime.options import PATH, alignment_options, reading_options
from evaluation.commands.options import lifted_option, prompts_option, space_option, text_source_options

if TYPE_CHECKING:
    from chorus_common.scene_check import AlignmentSettings
    from evaluation.sources import SourceOptions


@click.command("view")
@click.argument("scene", type=PATH)
@text_source_options
@lifted_option
@prompts_option
@space_option
@alignment_options()
@reading_options()
@click.option("--host", default="127.0.0.1", help="Address to listen on. Others can reach anything but 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, help="Port to listen on; 0 takes any free one.")
def view_command(
    scene: Path,
    sources: SourceOptions,
    prompts: str,
    label_space: str,
    host: str,
    port: int,
    alignment: AlignmentSettings,
    max_gaussians: int,
    lod: int,
) -> int:
    """Look at a scene in a browser.

    Shows colour, features, prediction, ground truth, and the answer to a typed query.

    SCENE is a scene file or folder of any format, or a store's <scene>.zarr. Without features only colour and ground
    truth are shown.
    """
    from chorus_common.labels import LABEL_SPACES
    from evaluation.scenes import Selection, scene_at
    from evaluation.sources import one_source
    from evaluation.viewer.scene_model import SceneModel
    from evaluation.viewer.server import ViewerServer

    if label_space and label_space not in LABEL_SPACES:
        raise ConfigError(f"unknown label space '{label_space}'; known: {', '.join(LABEL_SPACES)}")
    where = scene_at(scene, alignment, lod=lod, max_gaussians=max_gaussians)
    source = text_encoder = None
    if sources.given:
        _, source, text_encoder = one_source(sources, Selection([where]))
    loaded = where.load(label_space if where.store is None else "")
    names = LABEL_SPACES.get(label_space or loaded.gaussians.label_space, ())
    server = ViewerServer(SceneModel(loaded, source, text_encoder, names, prompts), host=host, port=port)
    click.echo(f"open {server.address} (Ctrl-C ends)")
    try:
        server.serve()
    finally:
        server.stop()
    return EXIT_DONE
