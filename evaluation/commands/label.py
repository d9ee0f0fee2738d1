"""chorus-eval label."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chorus_common.runtime.errors import EXIT_DONE, ConfigError
from chorus_common.runtime.options import FOLDER, PATH, alignment_options, json_option, out_option, reading_options
from evaluation.commands.options import lifted_option, prompts_option, synonyms_option, text_source_options
from evaluation.results import command_line, result_document, text_table, write_result

if TYPE_CHECKING:
    from chorus_common.scene_check import AlignmentSettings
    from evaluation.sources import SourceOptions

#: Objects that the table shows; labels.json has them all.
_SHOWN = 20


@click.command("label")
@click.argument("scene", type=PATH)
@click.option(
    "--classes",
    required=True,
    help="Names between commas, a file with one name per line, or a label space (scannet200).",
)
@text_source_options
@lifted_option
@prompts_option
@synonyms_option
@click.option(
    "--instances",
    type=click.Choice(["auto", "clusters", "masks"]),
    default="auto",
    help="What objects are: clusters of one class, or the cache's masks.  [default: masks where a cache has them]",
    show_default=False,
)
@click.option(
    "--radius",
    type=click.FloatRange(min=0, min_open=True),
    help="Metres between linked Gaussians of a cluster.  [default: four times the spacing]",
)
@click.option("--min-size", type=click.IntRange(min=1), default=20, help="Gaussians of the smallest object.")
@click.option("--objects", is_flag=True, help="Write every object as a .ply of its own, with its row numbers.")
@click.option("--file", "own_file", type=PATH, help="The scene's own file, where SCENE is a store's <scene>.zarr.")
@out_option("Folder: the file with labels, labels.json, per-row arrays.", FOLDER)
@alignment_options()
@reading_options()
@json_option("Print labels.json instead of the table.")
def label_command(
    scene: Path,
    classes: str,
    sources: SourceOptions,
    prompts: str,
    synonyms: bool,
    instances: str,
    radius: float | None,
    min_size: int,
    objects: bool,
    own_file: Path | None,
    out: Path,
    as_json: bool,
    alignment: AlignmentSettings,
    max_gaussians: int,
    lod: int,
) -> int:
    """Label every Gaussian of a scene, in the scene's own file.

    Writes the file again with predicted_class, predicted_instance and predicted_confidence for each of its rows.
    Everything else in it stays as it was.

    SCENE is a scene file or folder of any format. It may also be a store's <scene>.zarr, whose masks are then used.
    """
    import numpy as np

    from chorus_common.runtime.atomic import atomic_path
    from chorus_common.scene_io.source_properties import INSTANCE, write_part, write_properties
    from evaluation.label import check_known, class_table, describe_objects, label_scene, read_classes
    from evaluation.label_picture import write_label_picture
    from evaluation.prompts import class_embeddings, prompts_for
    from evaluation.scenes import Selection, scene_at
    from evaluation.sources import one_source

    names = read_classes(classes)
    where = scene_at(scene, alignment, lod=lod, max_gaussians=max_gaussians)
    source = own_file if own_file is not None else where.source
    if not isinstance(source, Path):
        raise ConfigError(f"{scene}: a store does not hold the scene's own file; give it with --file")
    if not source.exists():
        raise ConfigError(f"{source}: no such scene")
    if out.resolve() in (source.resolve().parent, source.resolve()):
        raise ConfigError(f"{out}: holds the scene itself, which would be written over; give another --out")
    name, features, text_encoder = one_source(sources, Selection([where]))
    prompts = prompts_for(text_encoder, prompts)
    check_known(text_encoder, names, classes)
    text = class_embeddings(text_encoder, names, templates=prompts, synonyms=synonyms)
    loaded = where.load()
    labels = label_scene(loaded, features.open(loaded), text, instances=instances, radius=radius, min_size=min_size)
    columns = labels.columns(loaded)
    written = write_properties(source, columns, out, lod=lod, max_gaussians=max_gaussians)
    for column, values in columns.items():
        with atomic_path(out / f"{column}.npy") as temporary, open(temporary, "wb") as handle:
            np.save(handle, values, allow_pickle=False)
    write_label_picture(out / "labels.png", loaded, labels.classes, names)
    found = describe_objects(loaded, labels, names)
    if objects:
        for entry in found:
            rows = np.flatnonzero(columns[INSTANCE] == entry["id"])
            word = re.sub(r"[^A-Za-z0-9]+", "-", entry["class"] or "none").strip("-") or "object"
            part = out / "objects" / f"{entry['id']:04d}_{word}.ply"
            part.parent.mkdir(parents=True, exist_ok=True)
            own = {key: values[rows] for key, values in columns.items()}
            write_part(source, rows, part, own, lod=lod, max_gaussians=max_gaussians)
            entry["file"] = str(part.relative_to(out))
    document = result_document(
        "label",
        command_line(),
        {
            "scene": str(scene),
            "prompts": prompts,
            "synonyms": synonyms,
            "source": name,
            **sources.inputs(),
            "text_encoder": text_encoder.spec,
            "alignment": alignment.model_dump(),
            "lod": lod,
            "radius": radius,
            "min_size": min_size,
        },
        {
            "file": written.name,
            "rows": len(columns[INSTANCE]),
            "file_to_metres": loaded.alignment.as_dict(),
            "classes": class_table(names),
            "objects_from": labels.origin,
            "objects": found,
        },
    )
    write_result(out / "labels.json", document)
    if as_json:
        click.echo(json.dumps(document, indent=1))
        return EXIT_DONE
    header = (f"objects from {labels.origin}", "class", "confidence", "Gaussians", "centre (file)")
    shown = [
        (str(o["id"]), o["class"] or "-", f"{o['confidence']:.2f}", str(o["count"]), _place(o["centre"]))
        for o in found[:_SHOWN]
    ]
    click.echo(text_table(header, shown))
    if len(found) > _SHOWN:
        click.echo(f"and {len(found) - _SHOWN} more in labels.json")
    own_ending = source.suffix.lower() if source.is_file() and source.suffix != ".json" else ""
    if written.is_file() and written.suffix.lower() != own_ending:
        click.echo(f"{source.name}: the format has no room for labels; a .ply with all that was read holds them")
    click.echo(f"written: {written}, labels.json, labels.png, predicted_*.npy")
    return EXIT_DONE


def _place(centre: list[float]) -> str:
    return " ".join(f"{x:.2f}" for x in centre)
