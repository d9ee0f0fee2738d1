"""chorus-stage1 embed: a picture as a query."""

from __future__ import annotations

from pathlib import Path

import click

from chorus_common.runtime.errors import EXIT_DONE, ConfigError
from chorus_common.runtime.options import FILE, device_option, out_option


@click.command("embed")
@click.argument("picture", type=FILE)
@click.option("--teacher", required=True, metavar="SPEC", help="Dense teacher that looks at the picture.")
@out_option("File for the vector (.npz).", FILE)
@device_option("Where the teacher runs: auto, cpu, cuda or cuda:N.")
def embed_command(picture: Path, teacher: str, out: Path, device: str) -> int:
    """Write what a teacher says of a picture as one vector.

    chorus-eval query --like-image takes the file, on machines without the teacher too. Transparent parts of PICTURE do
    not count.
    """
    from chorus_common.features.picture_vector import SUFFIX
    from chorus_common.runtime.devices import pick_device
    from stage1_render_teachers.picture_embedding import embed_picture, read_picture
    from stage1_render_teachers.teachers import build_teacher
    from stage1_render_teachers.teachers.protocol import DenseTeacher

    if out.suffix != SUFFIX:
        raise ConfigError(f"{out}: the vector of a picture is a {SUFFIX} file")
    pixels = read_picture(picture)
    built = build_teacher(teacher, str(pick_device(device)))
    if not isinstance(built, DenseTeacher):
        raise ConfigError(f"--teacher {teacher}: gives masks and no features; take a dense teacher")
    embed_picture(built, pixels).save(out)
    click.echo(f"{out}: {picture.name} as {teacher} sees it, {built.channels} channels")
    return EXIT_DONE
