"""chorus-eval query."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus_common.runtime.errors import EXIT_DONE, ConfigError
from chorus_common.runtime.options import (
    FILE,
    FOLDER,
    PATH,
    alignment_options,
    json_option,
    out_option,
    reading_options,
)
from evaluation.commands.options import lifted_option, prompts_option, text_source_options
from evaluation.results import command_line, result_document, text_table, write_result

if TYPE_CHECKING:
    from chorus_common.scene_check import AlignmentSettings
    from evaluation.sources import SourceOptions


class _Place(click.ParamType):
    """Three numbers between commas."""

    name = "X,Y,Z"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            place = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            place = ()
        if len(place) != 3 or not all(map(math.isfinite, place)):
            self.fail(f"{value!r} is no place; give three numbers x,y,z", param, ctx)
        return place


@click.command("query")
@click.argument("scene", type=PATH)
@click.argument("words", required=False)
@click.option("--like-point", type=_Place(), help="In place of WORDS: what is like this place of the file.")
@click.option(
    "--like-image",
    type=FILE,
    help="In place of WORDS: what is like this picture, asked through the student's generalist head; or a file of "
    "chorus-stage1 embed.",
)
@text_source_options
@lifted_option
@prompts_option
@click.option("--top", type=click.IntRange(min=1), default=5, help="Objects to list.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="Relevancy above which something answers.  [default: 0.5 for clusters, any for masks]",
)
@out_option("Folder: heat.ply, heat.png, objects.ply, query.json.", FOLDER)
@alignment_options()
@reading_options()
@json_option("Print query.json instead of the table.")
def query_command(
    scene: Path,
    words: str | None,
    like_point: tuple[float, ...] | None,
    like_image: Path | None,
    sources: SourceOptions,
    prompts: str,
    top: int,
    threshold: float | None,
    out: Path,
    as_json: bool,
    alignment: AlignmentSettings,
    max_gaussians: int,
    lod: int,
) -> int:
    """Find where a scene shows what a text says.

    Writes a heat map (LERF's relevancy) of WORDS in SCENE and the objects that answer best. A place of the scene or a
    picture may be asked for in place of words.

    SCENE is a scene file or folder of any format, or a store's <scene>.zarr, whose cameras and masks are then used.
    """
    from chorus_common.text.relevancy import SHARPNESS
    from evaluation.heat_picture import heat_range, write_heat_picture
    from evaluation.predictions.coloured_file import write_coloured_file
    from evaluation.queries import Likeness, Words, ask
    from evaluation.report.colours import class_palette, heat
    from evaluation.scenes import Selection, scene_at
    from evaluation.tasks.query import answer

    if sum(given is not None for given in (words, like_point, like_image)) != 1:
        raise ConfigError("query: give WORDS, --like-point or --like-image, one of them")
    if words is not None and not words.strip():
        raise ConfigError("query: no words to look for")
    where = scene_at(scene, alignment, lod=lod, max_gaussians=max_gaussians)
    if where.source is not None and where.source.parent == out.resolve() and where.source.stem in ("heat", "objects"):
        raise ConfigError(f"{scene}: would be written over; give another --out")
    question = Words(words, prompts) if words is not None else Likeness(like_point, like_image)
    asked = ask(question, sources, Selection([where]))
    loaded = where.load()
    features = asked.source.open(loaded)
    query, others = asked.vectors(loaded, features)
    found = answer(loaded, features, query, others, top=top, threshold=threshold)
    low, high = heat_range(found.relevancy)
    write_coloured_file(out / "heat.ply", loaded, heat(found.relevancy, low, high), {"relevancy": found.relevancy})
    write_heat_picture(out / "heat.png", loaded, found.relevancy, f"{asked.row}: {question.title}", asked.half)
    ranks = found.ranks()
    colours = class_palette([f"object {i}" for i in range(len(found.objects))])[ranks]
    write_coloured_file(out / "objects.ply", loaded, colours, {"rank": ranks})
    document = result_document(
        "query",
        command_line(),
        {
            "scene": str(scene),
            **question.inputs(),
            "source": asked.row,
            **sources.inputs(),
            **asked.inputs,
            "alignment": alignment.model_dump(),
            "lod": lod,
            "scale": SHARPNESS,
            "threshold": threshold,
        },
        {
            "file_to_metres": loaded.alignment.as_dict(),
            "objects": list(found.objects),
            "objects_from": found.origin,
            "compared_with": asked.half,
            "relevancy": {"max": float(found.relevancy.max()), "shown_low": low, "shown_high": high},
        },
    )
    write_result(out / "query.json", document)
    if as_json:
        click.echo(json.dumps(document, indent=1))
        return EXIT_DONE
    header = (f"{question.title}: objects from {found.origin}", "relevancy %", "Gaussians", "centre (file)")
    rows = [
        (f"{i + 1}", o["relevancy"], str(o["n_gaussians"]), " ".join(f"{x:.2f}" for x in o["centre"]))
        for i, o in enumerate(found.objects)
    ]
    click.echo(text_table(header, rows))
    if not found.objects:
        click.echo(f"no object answers: nothing is more like the query than like the {asked.half}")
    click.echo(f"written: {out}/heat.ply, heat.png, objects.ply, query.json")
    return EXIT_DONE
