"""chorus-stage2 field: train a granularity-aware language field of one scene, ask it, hand it on as a teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from chorus_common.runtime.errors import ConfigError
from chorus_common.runtime.options import PATH, config_option, device_option, json_option, out_option, set_option
from chorus_common.runtime.store_path import StorePath, StorePathType

scene_option = click.option(
    "--scene", type=StorePathType(), required=True, help="The scene's teacher cache, <store>/<data set>/<id>.zarr."
)


@click.group("field")
def field_command() -> None:
    """Train and ask a language field of one scene (GAGS)."""


@field_command.command()
@scene_option
@click.option("--masks", help="Mask teacher of the cache.  [default: the only one]")
@click.option(
    "--hold-out", multiple=True, metavar="VIEW", help="A view to leave out, by name. May be given several times."
)
@config_option("docs/guide/gags.md")
@set_option()
@out_option("Folder of the field. The same command again goes on.")
@device_option()
def train(
    scene: StorePath,
    masks: str | None,
    hold_out: tuple[str, ...],
    config_path: Path | None,
    settings: tuple[str, ...],
    out: Path,
    device: str,
) -> None:
    """Train the field of SCENE, or go on with the one in OUT."""
    from chorus_common.cache import SceneCache
    from chorus_common.runtime.config import load_config
    from chorus_common.runtime.devices import pick_device
    from stage2_distill.commands.train import warn
    from stage2_distill.fields import FieldConfig, FieldRun, train_field

    config = load_config(FieldConfig, config_path, settings)
    cache = SceneCache.open(scene)
    field = train_field(config, FieldRun(cache, only_mask_teacher(cache, masks), hold_out), out, pick_device(device))
    card = field.card
    warn(
        f"{out}: {card.n_gaussians} Gaussians, {len(card.views)} views, {card.steps} steps, "
        f"levels {', '.join(card.levels)}"
    )


@field_command.command()
@click.argument("field", type=PATH)
@click.argument("texts", nargs=-1, required=True)
@scene_option
@click.option(
    "--view",
    "views",
    multiple=True,
    metavar="NAME",
    help="Draw a picture from this view of the cache. May be given several times.",
)
@click.option("--cameras", type=PATH, help="Draw pictures from these cameras (transforms.json, COLMAP).")
@out_option("Folder for scores and pictures.")
@json_option()
@device_option()
def query(
    field: Path,
    texts: tuple[str, ...],
    scene: StorePath,
    views: tuple[str, ...],
    cameras: Path | None,
    out: Path,
    as_json: bool,
    device: str,
) -> None:
    """Ask FIELD about TEXTS: scores of every Gaussian (scores.npz, <text>.ply), and pictures from views or cameras."""
    from chorus_common.cache import SceneCache
    from chorus_common.runtime.devices import pick_device
    from chorus_common.text import load_text_encoder
    from chorus_common.text.relevancy import encode_queries
    from stage2_distill.fields import FieldView, load_field
    from stage2_distill.fields.pictures import file_names, write_picture
    from stage2_distill.fields.scores import write_scores

    view = FieldView(load_field(field, pick_device(device)), SceneCache.open(scene))
    wanted = chosen_cameras(view, views, cameras)
    source = view.field.card.source
    encoder = load_text_encoder(source.spec)
    if not source.fingerprint.startswith(encoder.pair):
        raise ConfigError(
            f"{field}: was trained in the space of {source.spec} {source.fingerprint}, the text encoder belongs to "
            f"{encoder.pair}; run stage 1 and field train again"
        )
    questions, phrases = encode_queries(encoder, list(texts))
    scores = view.gaussian_relevancy(questions, phrases)
    names = file_names(texts)
    write_scores(view.cache.scene(), scores, texts, names, out)
    pictures = []
    for camera, viewmat, intrinsics, (width, height) in zip(
        file_names(wanted.names), wanted.viewmats, wanted.intrinsics, wanted.sizes
    ):
        maps = view.pixel_relevancy(viewmat, intrinsics, width, height, questions, phrases)
        for i, name in enumerate(names):
            path = out / f"{camera}.{name}.png"
            write_picture(view, maps[..., i], viewmat, intrinsics, path)
            pictures.append(str(path))
    best = {text: float(scores[:, i].max(initial=0)) for i, text in enumerate(texts)}
    if as_json:
        click.echo(json.dumps({"out": str(out), "best": best, "pictures": pictures}, sort_keys=True))
    else:
        for text, value in best.items():
            click.echo(f"{text:24} highest relevancy {value:.3f}")
        click.echo(f"{out}: scores.npz, {len(texts)} PLY, {len(pictures)} pictures", err=True)


@field_command.command()
@click.argument("field", type=PATH)
@scene_option
@click.option(
    "--format", "kind", type=click.Choice(["teacher", "npy"]), default="teacher", help="What is written, see above."
)
@out_option("Folder; files are named by the scene.")
@device_option()
def export(field: Path, scene: StorePath, kind: str, out: Path, device: str) -> None:
    """Write FIELD's features of every Gaussian.

    teacher: OUT/<data set>/<id>.safetensors, which chorus-stage2 train --gaussian-features TEACHER=OUT takes in place
    of lifted features. npy: OUT/<data set>/<id>.npy, rows as in the source file, which chorus-eval zero-shot
    --features takes.
    """
    import numpy as np

    from chorus_common.cache import SceneCache
    from chorus_common.runtime.atomic import atomic_path
    from chorus_common.runtime.devices import pick_device
    from stage2_distill.data.gaussian_teacher import features_path, write_gaussian_features
    from stage2_distill.fields import FieldView, load_field
    from stage2_distill.fields.export import in_source_order, matching_teacher, read_standardiser, standardised_features

    cache = SceneCache.open(scene)
    view = FieldView(load_field(field, pick_device(device)), cache)
    card = view.field.card
    path = features_path(out, card.dataset, card.scene_id)
    if kind == "npy":
        path = path.with_suffix(".npy")
        with atomic_path(path) as temporary, open(temporary, "wb") as handle:
            np.save(handle, in_source_order(cache, view.gaussian_features()))
        click.echo(f"{path}: {card.n_gaussians} Gaussians x {card.width} channels", err=True)
        return
    teacher = matching_teacher(view)
    standardiser = read_standardiser(scene.parent.parent, view, teacher)
    values = standardised_features(view, teacher, standardiser)
    write_gaussian_features(path, values, cache=cache.fingerprint, standardiser=standardiser.fingerprint)
    click.echo(f"{path}: train with --gaussian-features {teacher}={out}", err=True)


def only_mask_teacher(cache: Any, wanted: str | None) -> str:
    """`wanted`, or the cache's mask teacher where there is one. Raises ConfigError."""
    known = sorted(cache.mask_teachers)
    if wanted is None and len(known) != 1:
        raise ConfigError(
            f"{cache.path}: has {'mask teachers ' + ', '.join(known) if known else 'no mask teacher'}; "
            + ("name one with --masks" if known else "run stage 1 with one, such as embedded:masks")
        )
    return wanted if wanted is not None else known[0]


def chosen_cameras(view: Any, names: tuple[str, ...], path: Path | None) -> Any:
    """The CameraSet to draw from: views of the cache by name, or the cameras of a file. Raises ConfigError."""
    from chorus_common.camera_io import read_cameras
    from stage2_distill.fields.regions import rows_of_views

    if names and path is not None:
        raise ConfigError("--view names views of the cache, --cameras other ones; give one of them")
    if path is not None:
        return read_cameras(path)
    cameras = view.cache.cameras()
    return cameras.select(rows_of_views(cameras.names, names, view.field.card.scene_id))
