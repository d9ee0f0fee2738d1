"""Does choosing the granularity help? Fields that choose, fields of one level and of all levels averaged, on the same
simulated masks of the same rooms.

    python -m evaluation.studies.granularity --manifest ROOMS/manifest.parquet --store CACHE --out result.json

Rooms need part-level truth (chorus-data synth) and a cache, of which the lifting index alone is used; a quarter of the
views is held out from training and asked afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chorus_common.cache import SceneCache
from chorus_common.lifting import LiftingIndex
from chorus_common.runtime.config import Config
from chorus_common.runtime.errors import SceneError
from chorus_common.text.relevancy import CANONICAL_PHRASES, relevancy
from evaluation.lerf.scores import average_precision, iou, stretched
from evaluation.studies.granularity.simulated_masks import (
    LEVELS,
    TEACHER,
    Faults,
    PartTruth,
    SimulatedMasks,
    WordSpace,
    part_cells,
    simulate_masks,
)
from stage2_distill.engine.distributed import Processes
from stage2_distill.engine.trainer import Trainer
from stage2_distill.fields import FieldConfig
from stage2_distill.fields.model import GranularityField
from stage2_distill.fields.recipe import FieldRecipe
from stage2_distill.fields.regions import Regions, read_regions
from stage2_distill.fields.rendering import ViewMatrix, view_matrices
from stage2_distill.fields.settings import AVERAGE, LEARNED

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

SELECTIONS = (LEARNED, AVERAGE, *LEVELS)


class StudyConfig(Config):
    """What the study runs.

    Attributes:
        field: small decoders and few steps, because 90 fields are trained. seeds: of masks, decoders and orders.
        hold_out: every so many views one is kept for the questions.
        min_cells: queries of fewer cells in a view are not asked: their IoU is a matter of one cell.
        threshold: of the published IoU rule, on cells, without its 30-pixel box (a cell is coarser than that is wide).
    """

    field: FieldConfig = FieldConfig(
        decoder_width=64, decoder_layers=4, iterations=600, field_lr=0.05, decoder_lr=0.005
    )
    faults: Faults = Faults()
    seeds: tuple[int, ...] = (0, 1, 2)
    hold_out: int = 4
    min_cells: int = 4
    threshold: float = 0.4


@dataclass(frozen=True, eq=False)
class StudyRoom:
    """A room with part-level truth: its index, part of every Gaussian [N] and document of names (parts.json)."""

    name: str
    index: LiftingIndex
    parts: NDArray[np.integer]
    document: dict[str, Any]

    @staticmethod
    def read(cache: SceneCache, source: Path) -> StudyRoom:
        """Raises SceneError where the room has no parts."""
        parts = cache.scene().parts
        try:
            document = json.loads((source / "parts.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SceneError(f"{source}: no readable parts.json ({error}); the study needs synthetic rooms") from None
        if parts is None:
            raise SceneError(f"{cache.path}: was made of a scene without parts; the study needs synthetic rooms")
        return StudyRoom(cache.attributes.scene_id, cache.lifting(), parts, document)


@dataclass(frozen=True, eq=False)
class Questions:
    """What is asked of a room: finest names [K] with unit vectors, their classes of cells and Gaussians (-1: none)."""

    names: tuple[str, ...]
    text: F32
    phrases: F32
    cells: I32  # [V, cells]
    gaussians: I32  # [N]


def study_room(room: StudyRoom, config: StudyConfig, seed: int) -> Iterator[dict[str, Any]]:
    """One row per selection: miou (published rule, held-out views), average_precision, segmentation mIoU in views and
    in 3D, and the variance across views of the rendered features; the first row also has the masks' own variances.
    """
    index, words = room.index, WordSpace()
    picture = part_cells(index, room.parts, len(room.document["parts"]))
    truth = PartTruth.read(room.document, np.unique(picture[picture >= 0]))
    store = simulate_masks(index, picture, truth, words, config.faults, seed)
    regions = read_regions(store, TEACHER, index.grid, scene=room.name)
    questions = make_questions(picture, room.parts, truth, words)
    held_out = [v for v in range(index.n_views) if v % config.hold_out == config.hold_out - 1]
    views = [v for v in range(index.n_views) if v not in held_out]
    matrices = view_matrices(index, range(index.n_views))
    known = mask_variances(index, store, regions)
    for selection in SELECTIONS:
        field = config.field.model_copy(update={"selection": selection, "seed": seed})
        recipe = FieldRecipe(field, index, regions, views, scene=room.name)
        trainer = Trainer(recipe, Processes(0, 1))
        for step in range(field.iterations):
            trainer.step(step)
        yield {
            "room": room.name,
            "seed": seed,
            "selection": selection,
            **answers(recipe.model, matrices, held_out, questions, config),
            "variance": rendered_variance(recipe.model, index, matrices),
            "mask_variance": known,
        }


def make_questions(picture: I32, parts: NDArray[np.integer], truth: PartTruth, words: WordSpace) -> Questions:
    """The finest names that the views show."""
    shown = np.unique(picture[picture >= 0])
    names = tuple(sorted({truth.names[q] for q in shown}))
    place = {name: i for i, name in enumerate(names)}
    classes = np.array([*(place.get(name, -1) for name in truth.names), -1], dtype=np.int32)  # part -1 is class -1
    cells = classes[picture].reshape(len(picture), -1)  # [V, rows, cols] -> [V, cells]
    phrases = words.encode(list(CANONICAL_PHRASES))
    return Questions(names, words.encode(list(names)), phrases, cells, classes[parts])


@torch.inference_mode()
def answers(
    model: GranularityField, matrices: Sequence[ViewMatrix], held_out: Sequence[int], questions: Questions,
    config: StudyConfig,
) -> dict[str, float]:  # fmt: skip
    """Scores of one field."""
    text = questions.text
    by_rule, precisions, confusion = [], [], np.zeros((len(text), len(text)), np.int64)
    for view in held_out:
        matrix = matrices[view]
        features = model.decode(matrix.render(model.vectors)).numpy()
        own = questions.cells[view][matrix.cells]
        confusion += confusion_of(own, (features @ text.T).argmax(axis=1), len(text))
        scores = relevancy(features, text, questions.phrases)
        for k in np.unique(own[own >= 0]):
            inside = own == k
            if inside.sum() >= config.min_cells:
                by_rule.append(iou(stretched(scores[:, k]) > config.threshold, inside))
                precisions.append(average_precision(scores[:, k], inside))
    spoken = model.decode(model.vectors).numpy()
    in_3d = confusion_of(questions.gaussians, (spoken @ text.T).argmax(axis=1), len(text))
    return {
        "miou": float(np.mean(by_rule)),
        "average_precision": float(np.mean(precisions)),
        "segmentation": mean_iou(confusion),
        "segmentation_3d": mean_iou(in_3d),
        "queries": len(by_rule),
    }


def confusion_of(truth: I32, predicted: NDArray[np.integer], n: int) -> NDArray[np.int64]:
    """[n, n] counts of (truth, prediction) where the truth is known."""
    known = truth >= 0
    return np.bincount(truth[known] * np.int64(n) + predicted[known], minlength=n * n).reshape(n, n)


def mean_iou(confusion: NDArray[np.int64]) -> float:
    """Mean over the classes that occur in the truth."""
    hit = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hit
    present = confusion.sum(axis=1) > 0
    return float((hit[present] / union[present]).mean())


@torch.inference_mode()
def rendered_variance(model: GranularityField, index: LiftingIndex, matrices: Sequence[ViewMatrix]) -> float:
    """Variance across views of what the field shows of each Gaussian."""
    features = np.zeros((index.n_views, index.grid.cells, model.width), np.float32)
    for view, matrix in enumerate(matrices):
        features[view, matrix.cells] = model.decode(matrix.render(model.vectors)).numpy()
    return view_variance(index, features)


def mask_variances(index: LiftingIndex, store: SimulatedMasks, regions: Regions) -> dict[str, float]:
    """The same of the masks' own embeddings, level by level."""
    found = {}
    for k, level in enumerate(regions.levels):
        rows = regions.masks[:, :, k]
        features = np.where((rows >= 0)[..., None], regions.embeddings[rows], np.float32(0))
        found[level] = view_variance(index, features)
    return found


def view_variance(index: LiftingIndex, features: F32) -> float:
    """How much a Gaussian's feature differs from view to view: sum_v w_v |x_v - mean|^2 / sum_v w_v, averaged over the
    Gaussians that two views or more show.

    x_v is the feature lifted from view v alone, w_v its weight there. features [V, cells, C]; cells of zeros are empty
    and left out.
    """
    weight = np.zeros(len(index), np.float64)
    first = np.zeros((len(index), features.shape[2]), np.float64)
    second = np.zeros(len(index), np.float64)
    count = np.zeros(len(index), np.int64)
    for view in range(index.n_views):
        own = features[view]
        sums, total = index.select_views([view]).lift(own, column_mask=(own != 0).any(axis=1))
        x = sums / np.maximum(total, 1e-12)[:, None]
        weight += total
        first += total[:, None] * x
        second += total * (x.astype(np.float64) ** 2).sum(axis=1)
        count += total > 0
    several = count >= 2
    mean = first[several] / weight[several, None]
    return float((second[several] / weight[several] - (mean**2).sum(axis=1)).mean())


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Per selection the mean over rooms and seeds, and against the learned one the mean difference and in how many
    (room, seed) pairs it is ahead.
    """
    keys = ("miou", "average_precision", "segmentation", "segmentation_3d", "variance")
    of = {s: [row for row in rows if row["selection"] == s] for s in SELECTIONS}
    table: dict[str, Any] = {s: {k: float(np.mean([r[k] for r in of[s]])) for k in keys} for s in SELECTIONS}
    best = np.array([r["miou"] for r in of[LEARNED]])
    for selection in SELECTIONS[1:]:
        gap = best - np.array([r["miou"] for r in of[selection]])
        table[selection] |= {"learned_ahead_by": float(gap.mean()), "learned_ahead_in": f"{(gap > 0).sum()}/{len(gap)}"}
    masks = {level: float(np.mean([r["mask_variance"][level] for r in of[LEARNED]])) for level in LEVELS}
    return {"selections": table, "mask_variance": masks}
