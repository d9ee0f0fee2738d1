"""chorus-eval share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from chorus_common.runtime.errors import EXIT_DONE, ConfigError
from chorus_common.runtime.options import FILE, PATH, alignment_options, out_option, reading_options
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


@click.command("share")
@click.argument("scene", type=PATH)
@text_source_options
@lifted_option
@prompts_option
@click.option("--query", "queries", multiple=True, metavar="WORDS", help="A query to show. May be given several times.")
@click.option(
    "--head",
    "heads",
    multiple=True,
    metavar="NAME",
    help="Another head of the student to show: a teacher's name, or encoder. May be given several times.",
)
@seen_classes_option
@seen_labels_option
@space_option
@out_option("The page (.html).", FILE)
@alignment_options()
@reading_options()
def share_command(
    scene: Path,
    sources: SourceOptions,
    prompts: str,
    queries: tuple[str, ...],
    heads: tuple[str, ...],
    classes: str,
    labels: Path | None,
    label_space: str,
    out: Path,
    alignment: AlignmentSettings,
    max_gaussians: int,
    lod: int,
) -> int:
    """Make one page of a scene that opens anywhere.

    The page holds the splats, features as colours, labels, objects and the answers to queries. It needs no network, no
    server and no other file.

    SCENE is a scene file or folder of any format, or a store's <scene>.zarr. Harmonics are left out.
    """
    from chorus_common.runtime.atomic import write_text_atomically
    from evaluation.scenes import scene_at
    from evaluation.viewer.content import shared_content, shared_page
    from evaluation.viewer.open_model import open_model

    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{out}: a page is an .html file; give --out page.html")
    if blank := [query for query in queries if not query.strip()]:
        raise ConfigError(f"--query {blank[0]!r}: no words to look for")
    where = scene_at(scene, alignment, lod=lod, max_gaussians=max_gaussians)
    asked = tuple(dict.fromkeys(query.strip() for query in queries))
    model = open_model(
        where, sources, classes=classes, label_space=label_space, prompts=prompts, labels=labels, queries=asked
    )
    content = shared_content(model, asked, tuple(dict.fromkeys(heads)))
    page = shared_page(content)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(out, page)
    shown = ", ".join(str(header["name"]) for header, _ in content.layers)
    objects = "" if content.objects is None else f", {len(content.objects.described)} objects"
    click.echo(f"{len(content.splats.order)} Gaussians; buttons: {shown}{objects}")
    click.echo(f"written: {out} ({len(page.encode()) / 1e6:.2f} MB)")
    return EXIT_DONE
