"""chorus-eval lerf."""

from __future__ import annotations

from pathlib import Path

import click

from chorus_common.runtime.errors import ConfigError
from chorus_common.runtime.options import FILE, PATH
from evaluation.commands.options import encoder_device_option, result_option
from evaluation.results import command_line, result_document, text_table, write_result


@click.command("lerf")
@click.option(
    "--field", "fields", type=PATH, multiple=True, required=True, help="Field of a scene. Give one per scene."
)
@click.option(
    "--scene",
    "scenes",
    type=PATH,
    multiple=True,
    required=True,
    help="Teacher cache of each field's scene, in the same order.",
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
    scenes: tuple[Path, ...],
    labels: tuple[Path, ...],
    box: int,
    threshold: float,
    text_embeddings: Path | None,
    allow_training_views: bool,
    out: Path,
    device: str,
) -> None:
    """Score language fields under the LERF-OVS protocol.

    Localisation and mIoU are those of LERF-OVS and Mip-NeRF360-OVS.
    """
    from chorus_common.cache import SceneCache
    from chorus_common.text import load_text_encoder
    from chorus_common.text.embedding_file import EmbeddingFile
    from evaluation.features import check_pair
    from evaluation.lerf.annotations import read_annotations
    from evaluation.lerf.field_answers import FieldAnswers
    from evaluation.lerf.protocol import match_frames, score_frames, summarise
    from evaluation.lerf.scores import LerfRules
    from stage2_distill.fields import FieldView, load_field

    if not len(fields) == len(scenes) == len(labels):
        raise ConfigError(f"{len(fields)} --field, {len(scenes)} --scene, {len(labels)} --labels: give one of each")
    rules = LerfRules(box=box, threshold=threshold)
    embeddings = None if text_embeddings is None else EmbeddingFile(text_embeddings)
    found, held_out, text_sides = {}, True, set()
    for field, scene, folder in zip(fields, scenes, labels):
        view = FieldView(load_field(field, device), SceneCache.open(scene))
        card = view.field.card
        name = f"{card.dataset}/{card.scene_id}"
        if name in found:
            raise ConfigError(f"scene {name} is given twice")
        encoder = embeddings or load_text_encoder(card.source.spec)
        if encoder.channels != card.width:
            raise ConfigError(f"{field}: gives {card.width} channels, text side {encoder.spec} {encoder.channels}")
        check_pair(card.masks, card.source.fingerprint, encoder)
        text_sides.add(encoder.spec)
        frames = read_annotations(folder)
        trained = () if allow_training_views else card.views
        rows = match_frames(frames, view.cache.cameras().names, trained, name)
        held_out &= not allow_training_views
        found[name] = score_frames(frames, FieldAnswers(view, rows, encoder), rules)
    body = summarise(found)
    inputs = {
        "fields": [str(f) for f in fields],
        "scenes": [str(s) for s in scenes],
        "labels": [str(p) for p in labels],
        "text_encoder": ", ".join(sorted(text_sides)),
        "held_out": held_out,
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
    click.echo(f"written: {out}")
