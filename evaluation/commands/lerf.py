"""chorus-eval lerf."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chorus_common.runtime.errors import ConfigError
from chorus_common.runtime.options import FILE, PATH
from evaluation.commands.options import encoder_device_option, result_option
from evaluation.results import command_line, result_document, text_table, write_result

if TYPE_CHECKING:
    from evaluation.lerf.protocol import AskedScene
    from evaluation.sources import SourceOptions


@click.command("lerf")
@click.option("--field", "fields", type=PATH, multiple=True, help="Field of a scene. Give one per scene.")
@click.option("--encoder", type=PATH, help="In place of fields: a student, a path or a name, for all scenes.")
@click.option("--teacher", help="Text-aligned teacher of the student to ask.  [default: the first with a text side]")
@click.option(
    "--scene", "scenes", type=PATH, multiple=True, required=True, help="Teacher cache of a scene. Give one per field."
)
@click.option(
    "--labels", type=PATH, multiple=True, required=True, help="Folder of annotations of each scene, in the same order."
)
@click.option("--box", default=30, help="Side of the averaging box in pixels.")
@click.option("--threshold", default=0.4, help="Threshold of the published IoU rule.")
@click.option(
    "--text-embeddings",
    type=FILE,
    help="File phrase -> vector (.npz, .safetensors, .pt) in place of the text encoder, canonical phrases included.",
)
@click.option("--allow-training-views", is_flag=True, help="Score frames that the field was trained on, too.")
@result_option
@encoder_device_option()
def lerf_command(
    fields: tuple[Path, ...],
    encoder: Path | None,
    teacher: str | None,
    scenes: tuple[Path, ...],
    labels: tuple[Path, ...],
    box: int,
    threshold: float,
    text_embeddings: Path | None,
    allow_training_views: bool,
    out: Path,
    device: str,
) -> None:
    """Score language fields, or an encoder, under the LERF-OVS protocol.

    Localisation and mIoU are those of LERF-OVS and Mip-NeRF360-OVS.
    """
    from evaluation.lerf.fixed_thresholds import score_thresholds, summarise_thresholds
    from evaluation.lerf.protocol import score_frames, summarise
    from evaluation.lerf.scores import LerfRules
    from evaluation.sources import SourceOptions

    if bool(fields) == (encoder is not None):
        raise ConfigError("lerf: give --field for each scene, or one --encoder")
    if not len(fields or scenes) == len(scenes) == len(labels):
        given = f"{len(fields)} --field, " if fields else ""
        raise ConfigError(f"{given}{len(scenes)} --scene, {len(labels)} --labels: give one of each")
    rules = LerfRules(box=box, threshold=threshold)
    options = SourceOptions(encoder=encoder, teacher=teacher, text_embeddings=text_embeddings, device=device)
    asked = (
        _fields(fields, scenes, labels, options, allow_training_views) if fields else _encoder(scenes, labels, options)
    )
    found, fixed, text_sides = {}, {}, set()
    for scene in asked:
        if scene.name in found:
            raise ConfigError(f"scene {scene.name} is given twice")
        text_sides.add(scene.text_encoder)
        found[scene.name] = score_frames(scene.frames, scene.answer, rules)
        fixed[scene.name] = score_thresholds(scene)
    body = {**summarise(found), "chorus_release": summarise_thresholds(fixed)}
    inputs = {
        "fields": [str(f) for f in fields],
        **options.inputs(),
        "scenes": [str(s) for s in scenes],
        "labels": [str(p) for p in labels],
        "text_encoder": ", ".join(sorted(text_sides)),
        "held_out": not allow_training_views,
        **rules.model_dump(),
    }
    write_result(out, result_document("lerf", command_line(), inputs, body))
    keys = ("miou", "localisation", "average_precision", "best_iou")
    rows_of = {**body["scenes"], "mean of scenes": body["macro"], "mean of queries": body["query_weighted"]}
    click.echo(
        text_table(
            ("", "mIoU", "located", "AP", "best IoU"),
            [(name, *(row[key] for key in keys)) for name, row in rows_of.items()],
        )
    )
    thresholds = body["chorus_release"]
    row = ("mIoU (chorus_release)", *(t["miou"] for t in thresholds.values()))
    click.echo(text_table(("Gaussians with a relevancy above", *thresholds), [row]))
    click.echo(f"written: {out}")


def _fields(
    fields: tuple[Path, ...], scenes: tuple[Path, ...], labels: tuple[Path, ...], options: SourceOptions,
    training_views: bool,
) -> Iterator[AskedScene]:  # fmt: skip
    from chorus_common.cache import SceneCache
    from chorus_common.text import load_text_encoder
    from chorus_common.text.embedding_file import EmbeddingFile
    from evaluation.features import check_pair
    from evaluation.lerf.annotations import read_annotations
    from evaluation.lerf.field_answers import FieldAnswers
    from evaluation.lerf.protocol import AskedScene, match_frames
    from stage2_distill.fields import FieldView, load_field

    embeddings = None if options.text_embeddings is None else EmbeddingFile(options.text_embeddings)
    for field, scene, folder in zip(fields, scenes, labels):
        view = FieldView(load_field(field, options.device), SceneCache.open(scene))
        card = view.field.card
        name = f"{card.dataset}/{card.scene_id}"
        encoder = embeddings or load_text_encoder(card.source.spec)
        if encoder.channels != card.width:
            raise ConfigError(f"{field}: gives {card.width} channels, text side {encoder.spec} {encoder.channels}")
        check_pair(card.masks, card.source.fingerprint, encoder)
        frames = read_annotations(folder)
        rows = match_frames(frames, view.cache.cameras().names, () if training_views else card.views, name)
        answers = FieldAnswers(view, rows, encoder)
        yield AskedScene(name, frames, view.cache.scene(), view.cache.cameras(), rows, answers, encoder.spec)


def _encoder(scenes: tuple[Path, ...], labels: tuple[Path, ...], options: SourceOptions) -> Iterator[AskedScene]:
    from evaluation.lerf.annotations import read_annotations
    from evaluation.lerf.encoder_answers import EncoderAnswers
    from evaluation.lerf.protocol import AskedScene, match_frames
    from evaluation.scenes import Selection, scene_at
    from evaluation.sources import one_source

    places = [scene_at(scene) for scene in scenes]
    if outside := [str(place.source) for place in places if place.store is None]:
        raise ConfigError(f"{outside[0]}: has no cameras; give a store's <data set>/<scene>.zarr")
    _, source, encoder = one_source(options, Selection(places))
    for place, folder in zip(places, labels):
        loaded, frames = place.load(), read_annotations(folder)
        cameras = loaded.cached().cameras()
        rows = match_frames(frames, cameras.names, (), place.name)
        answers = EncoderAnswers(loaded.gaussians, cameras, rows, source.open(loaded), encoder)
        yield AskedScene(place.name, frames, loaded.gaussians, cameras, rows, answers, encoder.spec)
