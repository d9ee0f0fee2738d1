"""From what a user gives to a `SceneModel`, the same way for `view` and `share`."""

from __future__ import annotations

from pathlib import Path

import click

from chorus_common.labels import LABEL_SPACES
from chorus_common.runtime.errors import ConfigError
from chorus_common.text import TextEncoder
from evaluation.features import LATENT, FeatureSource, StudentFeatures
from evaluation.label import check_known, read_classes
from evaluation.scenes import EvalScene, Selection
from evaluation.sources import SourceOptions, one_source
from evaluation.viewer.scene_model import SceneModel
from stage2_distill.hub import locate
from stage2_distill.student import is_student, load_student


def open_model(
    where: EvalScene,
    sources: SourceOptions,
    *,
    classes: str = "",
    label_space: str = "",
    prompts: str = "rooms",
    labels: Path | None = None,
    queries: tuple[str, ...] = (),
) -> SceneModel:
    """The model of the scene at `where`.

    Args:
        classes: what predictions are called, as for `read_classes`; "" = the names of the scene's own labels.
        label_space: of the scene's own labels, where it does not say.
        queries: what will be asked; with `classes` it decides whether a text side must be there.
    """
    if label_space and label_space not in LABEL_SPACES:
        raise ConfigError(f"unknown label space '{label_space}'; known: {', '.join(LABEL_SPACES)}")
    names = read_classes(classes) if classes else ()
    source: FeatureSource | None = None
    text_encoder: TextEncoder | None = None
    if sources.given:
        source, text_encoder = _source(where, sources, needs_text=bool(names or queries))
        if names and text_encoder is not None:
            check_known(text_encoder, names, classes)
    elif names or queries:
        raise ConfigError("--classes and --query need features; give --encoder, --features or --lifted")
    loaded = where.load(label_space if where.store is None else "")
    truth = LABEL_SPACES.get(label_space or loaded.gaussians.label_space, ())
    return SceneModel(loaded, source, text_encoder, names or truth, prompts, truth=truth, labels=labels)


def _source(where: EvalScene, sources: SourceOptions, *, needs_text: bool) -> tuple[FeatureSource, TextEncoder | None]:
    """The features that are asked for, and their text side. A student's features can be looked at without one."""
    try:
        _, source, text_encoder = one_source(sources, Selection([where]))
    except ConfigError as error:
        alone = sources.encoder is not None and sources.features is None and not sources.lifted and not sources.random
        if needs_text or not alone or sources.text or sources.text_embeddings:
            raise
        assert sources.encoder is not None, "asked above"
        if not locate(sources.encoder).path.exists() or not is_student(sources.encoder):
            raise
        student = load_student(sources.encoder, sources.device)
        click.echo(f"{sources.encoder}: no text side, nothing can be asked in words ({error})", err=True)
        teacher = sources.teacher or next(iter(student.teachers), LATENT)
        return StudentFeatures(student, teacher, sources.tta_rotations), None
    return source, text_encoder
