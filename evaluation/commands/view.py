"""chorus-eval view."""

from __future__ import annotations

from pathlib import Path

import click

from chorus_common.errors import EXIT_DONE, ConfigError
from evaluation.commands.options import FILE, prompts_option, source_options, space_option


@click.command("view")
@click.argument("scene", type=FILE)
@source_options
@click.option("--lifted", is_flag=True, help="Show the teacher's own features, lifted from the cache (a .zarr scene).")
@prompts_option
@space_option
@click.option("--host", default="127.0.0.1", help="Address to listen on; others can reach anything but 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, help="0 = any free one.")
def view_command(
    scene: Path,
    encoder: Path | None,
    random: bool,
    features: Path | None,
    teacher: str | None,
    text: str | None,
    seed: int,
    device: str,
    lifted: bool,
    prompts: str,
    label_space: str,
    host: str,
    port: int,
) -> int:
    """Look at SCENE in a browser: colour, features, prediction, ground truth, and the answer to a typed query.

    SCENE is a scene file or folder of any format, or a store's <scene>.zarr. Without features only colour and ground
    truth are shown.
    """
    from chorus_common.labels import LABEL_SPACES
    from evaluation.scenes import Selection, scene_at
    from evaluation.sources import SourceOptions, one_source
    from evaluation.viewer.scene_model import SceneModel
    from evaluation.viewer.server import ViewerServer

    if label_space and label_space not in LABEL_SPACES:
        raise ConfigError(f"unknown label space '{label_space}'; known: {', '.join(LABEL_SPACES)}")
    where = scene_at(scene)
    source = text_encoder = None
    if encoder is not None or features is not None or lifted:
        options = SourceOptions(encoder, random, features, lifted, teacher, text, device, seed)
        _, source, text_encoder = one_source(options, Selection([where]))
    loaded = where.load(label_space if where.store is None else "")
    names = LABEL_SPACES.get(label_space or loaded.gaussians.label_space, ())
    server = ViewerServer(SceneModel(loaded, source, text_encoder, names, prompts), host=host, port=port)
    click.echo(f"open {server.address} (Ctrl-C ends)")
    try:
        server.serve()
    finally:
        server.stop()
    return EXIT_DONE
