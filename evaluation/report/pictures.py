"""The pictures of a report: one scene, a few views, and what teacher and student make of it.

Features are shown as PCA colours. Teacher cells, lifted teacher and student share one basis (they live in one space,
the standardised one), so equal colours mean equal features; the encoder's own output has a basis of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chorus_common.cache import SceneCache
from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.labels import LABEL_SPACES
from chorus_common.rasterize import render_values
from chorus_common.runtime.errors import CacheError
from chorus_common.scene import GaussianScene
from chorus_common.text import TextEncoder
from evaluation.heat_picture import heat_over, heat_range
from evaluation.neighbours import nearest_fill
from evaluation.prompts import class_embeddings
from evaluation.relevancy import query_embeddings, relevancy
from evaluation.report.charts import picture_png
from evaluation.report.colours import PcaColours, class_palette
from evaluation.report.views import class_shares, informative_views, spread_views
from stage2_distill.student import Student
from stage2_distill.tta import encode_tta

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

#: Longer side of the pictures in pixels.
PICTURE_SIZE = 512
_GREY = np.float32(0.85)


@dataclass(frozen=True)
class Panel:
    """One picture: file name without suffix, title, what one sees."""

    key: str
    title: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class ViewPictures:
    """The panels of one view, in rows that belong together, and the classes it shows with their colours."""

    name: str
    rows: tuple[tuple[Panel, ...], ...]
    legend: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Subject:
    """What the pictures are about.

    teacher: name of the text-aligned teacher in the cache; standardiser: of its features; student: None = teacher only;
    tta_rotations: angles that it sees the scene at.
    """

    cache: SceneCache
    teacher: str
    standardiser: PhiSStandardiser
    text_encoder: TextEncoder
    student: Student | None
    tta_rotations: int
    prompts: str
    synonyms: bool


@dataclass(frozen=True)
class _Layer:
    """Per-Gaussian features of one origin: standardised [N, C], the same in the teacher's own space as unit rows, known
    [N].
    """

    standardised: F32
    unit: F32
    known: NDArray[np.bool_]


def view_pictures(subject: Subject, n_views: int, queries: Sequence[str]) -> list[ViewPictures]:
    """Pictures of `n_views` views of the subject's scene; heat maps of `queries`, or of classes in view where none are
    given.
    """
    cache = subject.cache
    scene = cache.scene()
    index = cache.lifting()
    names = LABEL_SPACES.get(cache.attributes.label_space, ())
    if scene.labels is not None and names:
        shares = class_shares(index, scene.labels, len(names))
        views = informative_views(shares, names, n_views)
        in_view = shares[views].sum(axis=0)
    else:
        views, in_view = spread_views(index.n_views, n_views), np.zeros(len(names))
    if not views:
        return []
    lifted = _lifted(subject)
    latent, student = _student(subject, scene)
    layers = [layer for layer in (lifted, student) if layer is not None]
    basis = PcaColours.fit([layer.standardised[layer.known] for layer in layers])
    palette = class_palette(names)
    wanted = list(queries) or _default_queries(names, in_view)

    sheets: dict[str, F32] = {"picture": scene.colors, "lifted": _masked(basis(lifted.standardised), lifted.known)}
    if student is not None and latent is not None:
        sheets["student"] = basis(student.standardised)
        sheets["latent"] = PcaColours.fit([latent])(latent)
    if names:
        text = class_embeddings(subject.text_encoder, names, templates=subject.prompts, synonyms=subject.synonyms)
        filled = nearest_fill(scene.means, _predict(lifted, text))
        sheets["lifted_classes"] = palette[filled]
        if student is not None:
            sheets["student_classes"] = palette[_predict(student, text)]
        if scene.labels is not None:
            sheets["truth"] = palette[scene.labels]
    answers = _relevance(subject, student or lifted, wanted)
    ranges = [heat_range(a[(student or lifted).known]) for a in answers.T]

    result = []
    stacked = np.concatenate([*sheets.values(), answers], axis=1)
    for view in views:
        drawn, alpha = _draw_view(cache, scene, view, stacked)
        on_white = drawn + (1 - alpha)
        layer_pictures = {key: on_white[..., 3 * i : 3 * i + 3] for i, key in enumerate(sheets)}
        answer = (drawn[..., 3 * len(sheets) :] / np.maximum(alpha, 1e-6)).astype(np.float32, copy=False)
        rows = [
            _feature_row(subject, view, layer_pictures, basis),
            _class_row(view, layer_pictures),
            _heat_row(view, layer_pictures["picture"], alpha, answer, wanted, ranges, student is not None),
        ]
        legend = _legend(names, palette, shares[view]) if "truth" in sheets else ()
        result.append(ViewPictures(f"View {cache.cameras().names[view]}", tuple(tuple(r) for r in rows if r), legend))
    return result


def _draw_view(cache: SceneCache, scene: GaussianScene, view: int, values: F32) -> tuple[F32, F32]:
    """Composited values [H, W, C] and alpha [H, W, 1]."""
    cameras = cache.cameras()
    scale = PICTURE_SIZE / max(cameras.width, cameras.height)
    width, height = round(cameras.width * scale), round(cameras.height * scale)
    cameras = cameras.resized(width, height)
    drawn, alpha = render_values(scene, cameras.viewmats[view], cameras.intrinsics[view], width, height, values)
    return drawn, alpha[..., None]


def _lifted(subject: Subject) -> _Layer:
    features = subject.cache.features(subject.teacher)
    sums, weight = subject.cache.lifting().lift(features.reshape(-1, features.shape[-1]))  # [V * cells, C]
    known = weight > 0
    if not known.any():
        raise CacheError(
            f"scene {subject.cache.attributes.scene_id}: no view sees any Gaussian; there is nothing to show"
        )
    standardised = (sums / np.where(known, weight, 1)[:, None]).astype(np.float32, copy=False)
    return _Layer(standardised, _unit(subject.standardiser.inverse(standardised)), known)


def _student(subject: Subject, scene: GaussianScene) -> tuple[F32 | None, _Layer | None]:
    if subject.student is None:
        return None, None
    rotated = encode_tta(subject.student.encoder, scene, subject.tta_rotations)
    features = rotated.in_teacher_space(subject.student, subject.teacher).numpy()
    standardised = subject.standardiser.forward(features).astype(np.float32, copy=False)
    return rotated.mean().numpy(), _Layer(standardised, _unit(features), np.ones(len(features), dtype=bool))


def _unit(features: F32) -> F32:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _predict(layer: _Layer, text: F32) -> I32:
    return np.where(layer.known, (layer.unit @ text.T).argmax(axis=1), -1).astype(np.int32)


def _relevance(subject: Subject, layer: _Layer, queries: Sequence[str]) -> F32:
    """[N, Q] in (0, 1): LERF's relevancy, as in `chorus-eval query`; 0 where nothing is known."""
    if not queries:
        return np.zeros((len(layer.unit), 0), dtype=np.float32)
    answers = relevancy(layer.unit, *query_embeddings(subject.text_encoder, queries, subject.prompts))
    return np.where(layer.known[:, None], answers, 0).astype(np.float32)


def _default_queries(names: Sequence[str], in_view: NDArray[np.floating], n: int = 4) -> list[str]:
    """The `n` foreground classes of which most is in view."""
    order = np.argsort(-in_view, kind="stable")
    return [
        names[i] for i in order if names[i] not in ("wall", "floor", "ceiling", "other furniture") and in_view[i] > 0
    ][:n]


def _masked(colours: F32, known: NDArray[np.bool_]) -> F32:
    return np.where(known[:, None], colours, _GREY)


def _feature_row(subject: Subject, view: int, pictures: dict[str, F32], basis: PcaColours) -> list[Panel]:
    cells = subject.cache.features(subject.teacher, [view])[0]  # [rows, cols, C]
    height, width = pictures["picture"].shape[:2]
    grid = subject.cache.attributes.grid
    across = np.minimum(((np.arange(width) + 0.5) * grid.width / width).astype(int) // grid.cell, cells.shape[1] - 1)
    down = np.minimum(((np.arange(height) + 0.5) * grid.height / height).astype(int) // grid.cell, cells.shape[0] - 1)
    row = [
        _panel(view, "picture", "Scene", "the Gaussians' own colours", pictures["picture"]),
        _panel(
            view,
            "cells",
            "Teacher, 2D",
            f"{subject.teacher}: one feature per {grid.cell} px cell",
            basis(cells)[down][:, across],
        ),
        _panel(view, "lifted", "Teacher, lifted", "mean over all views; grey: seen by none", pictures["lifted"]),
    ]
    if "student" in pictures:
        row += [
            _panel(view, "student", "Student", "predicted from the 3D scene alone, same colours", pictures["student"]),
            _panel(view, "latent", "Encoder output", "before the projector; colours of its own", pictures["latent"]),
        ]
    return row


def _class_row(view: int, pictures: dict[str, F32]) -> list[Panel]:
    row = []
    if "truth" in pictures:
        row.append(_panel(view, "truth", "Ground truth", "grey: no label", pictures["truth"]))
    if "student_classes" in pictures:
        row.append(
            _panel(view, "student_classes", "Student, zero-shot", "nearest class name", pictures["student_classes"])
        )
    if "lifted_classes" in pictures:
        row.append(
            _panel(
                view, "lifted_classes", "Lifted teacher, zero-shot", "unseen: nearest seen", pictures["lifted_classes"]
            )
        )
    return row


def _heat_row(
    view: int,
    picture: F32,
    alpha: F32,
    answers: F32,
    queries: Sequence[str],
    ranges: Sequence[tuple[float, float]],
    of_student: bool,
) -> list[Panel]:
    """Where each query is answered."""
    row = []
    for i, (query, (low, high)) in enumerate(zip(queries, ranges)):
        shown = heat_over(picture, alpha, answers[..., i], low, high)
        who = "student" if of_student else "lifted teacher"
        caption = f"{who}: relevancy, {low:.2f} (blue) to {high:.2f} (red); 0.5: as near as the canonical phrases"
        row.append(_panel(view, f"query{i}", f"“{query}”", caption, shown))
    return row


def _legend(names: Sequence[str], palette: F32, shares: NDArray[np.floating]) -> tuple[tuple[str, str], ...]:
    order = np.argsort(-shares, kind="stable")
    return tuple((names[i], _hex(palette[i])) for i in order if shares[i] > 0.002)


def _hex(colour: F32) -> str:
    return "#" + "".join(f"{round(255 * float(c)):02x}" for c in colour)


def _panel(view: int, key: str, title: str, caption: str, picture: F32) -> Panel:
    return Panel(f"view{view:03d}_{key}", title, caption, picture_png(picture))
