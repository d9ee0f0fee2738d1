"""Text-aligned heads on real frozen features, fitted on synthetic rooms alone and asked about real scans.

    python -m evaluation.studies.real_scenes.head_trials --store S --manifest SCANS --rooms ROOMS --out heads.json

A head turns a teacher's lifted features into the space of `embedded:text`: logits are SHARPNESS times the cosines with
the vectors of the class names, and the loss is the cross-entropy with the rooms' labels, classes weighted alike. Real
scans have no part in it, except that "own statistics" brings both kinds of scenes to mean 0 and deviation 1 per channel
by their own pictures, which needs no label.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from chorus_common.cache import SceneCache
from chorus_common.runtime.errors import EXIT_DONE, SceneError, run_cli
from chorus_common.runtime.options import FILE
from chorus_common.runtime.progress import progress
from chorus_common.text import load_text_encoder
from evaluation.commands.options import result_option, scene_options
from evaluation.prompts import class_embeddings
from evaluation.results import result_document, text_table, write_result
from evaluation.scenes import EvalScene, SceneOptions
from evaluation.studies.real_scenes.lifted_scores import LabelledScenes, lifted_mean, score_lifted
from evaluation.studies.real_scenes.plan import FINE_BACKBONE, SAM, TEXT, StudyTeacher
from evaluation.studies.real_scenes.store_features import cells_of, standardiser_of

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

#: Teachers whose features a head reads, side by side where there are several.
SOURCES: dict[str, tuple[StudyTeacher, ...]] = {
    "lite0": (FINE_BACKBONE,),
    "SAM's encoder": (SAM,),
    "both": (FINE_BACKBONE, SAM),
    "embedded:text": (TEXT,),
}
#: Width of the hidden layer; 0 = linear.
HEADS = {"linear": 0, "one hidden layer of 256": 256}
STATISTICS = ("the scans' statistics", "own statistics")
SHARPNESS = 20.0
POINTS, BATCH, LEARNING_RATE, DECAY = 1024, 2048, 5e-3, 1e-2


def build_head(channels: int, hidden: int, width: int) -> nn.Module:
    """[.., channels] -> [.., width]."""
    if not hidden:
        return nn.Linear(channels, width)
    return nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, width))


def fit_head(features: F32, labels: I64, queries: F32, hidden: int, steps: int, seed: int) -> nn.Module:
    """A head fitted to features [P, C] with classes [P] whose names have the unit vectors `queries` [K, E]."""
    torch.manual_seed(seed)
    x, y, texts = torch.from_numpy(features), torch.from_numpy(labels), torch.from_numpy(queries)
    counts = torch.bincount(y, minlength=len(queries)).float()
    weight = torch.where(counts > 0, counts.sum() / counts.clamp(min=1), torch.zeros(()))
    head = build_head(features.shape[1], hidden, queries.shape[1])
    optimiser = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rows = torch.randint(len(x), (min(BATCH, len(x)),))
        loss = F.cross_entropy(SHARPNESS * cosines(head(x[rows]), texts), y[rows], weight)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return head.eval()


def cosines(vectors: Tensor, texts: Tensor) -> Tensor:
    """[.., K] of vectors [.., E] with unit rows [K, E]."""
    return F.normalize(vectors, dim=-1) @ texts.T


def features_of(cache: SceneCache, teachers: Sequence[StudyTeacher]) -> F32:
    """Standardised features [V * cells, C], teachers side by side."""
    found = np.concatenate([cells_of(cache, teacher) for teacher in teachers], axis=2)
    return found.reshape(-1, found.shape[2])


def channel_statistics(scenes: Sequence[EvalScene], teachers: Sequence[StudyTeacher]) -> tuple[F32, F32]:
    """Mean and deviation [C] over all cells of all views."""
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for where in scenes:
        cells = features_of(where.open(), teachers).astype(np.float64)
        count, total, squares = count + len(cells), total + cells.sum(axis=0), squares + (cells**2).sum(axis=0)
    middle = total / count
    spread = np.sqrt(np.maximum(squares / count - middle**2, 1e-12))
    return middle.astype(np.float32), spread.astype(np.float32)


def draw_points(
    scenes: Sequence[EvalScene], teachers: Sequence[StudyTeacher], space: str, seed: int
) -> tuple[F32, I64]:
    """Lifted features [P, C] and classes [P] of POINTS labelled Gaussians of every scene."""
    features, labels = [], []
    for number, where in enumerate(scenes):
        scene = where.load(space)
        known = scene.gaussians.labels
        if known is None:
            raise SceneError(f"{scene.name}: has no labels; heads are fitted to them")
        lifted = lifted_mean(*scene.cached().lifting().lift(features_of(scene.cached(), teachers)))
        usable = np.flatnonzero((known >= 0) & ~np.isnan(lifted[:, 0]))
        rng = np.random.default_rng((seed, number))
        rows = rng.choice(usable, min(POINTS, len(usable)), replace=False)
        features.append(lifted[rows])
        labels.append(known[rows].astype(np.int64))
    return np.concatenate(features), np.concatenate(labels)


@click.command("head-trials", context_settings={"show_default": True})
@scene_options
@click.option("--rooms", type=FILE, required=True, help="Manifest of synthetic rooms, in the same store.")
@click.option("--steps", type=click.IntRange(min=1), default=400, help="Steps of a head.")
@click.option("--seeds", type=click.IntRange(min=1), default=2, help="Heads per row.")
@result_option
def command(scenes: SceneOptions, rooms: Path, steps: int, seeds: int, out: Path) -> int:
    """Fit heads on rooms, and score them on scans."""
    selection, class_names, space = scenes.labelled()
    learned, _, _ = SceneOptions(scenes.stores, rooms, "train", space).labelled()
    queries = class_embeddings(load_text_encoder(TEXT.spec), class_names, templates="plain")
    labels: list[NDArray[np.int32]] = []
    means: list[F32] = []
    for where in selection.scenes:
        gaussians = where.load(space).gaussians
        if gaussians.labels is None:
            raise SceneError(f"{where.name}: has no labels; the trials are scored on them")
        labels.append(gaussians.labels)
        means.append(gaussians.means)
    truth = LabelledScenes(class_names, labels, means)
    rows: dict[str, dict[str, Any]] = {}
    with progress(len(SOURCES), "heads") as reporter:
        for source, teachers in SOURCES.items():
            statistics = {"rooms": channel_statistics(learned.scenes, teachers)}
            statistics["scans"] = channel_statistics(selection.scenes, teachers)
            heads: dict[tuple[str, str, int], nn.Module] = {}
            for seed in range(seeds):
                points, classes = draw_points(learned.scenes, teachers, space, seed)
                for which, own in zip(STATISTICS, ("scans", "rooms")):
                    middle, spread = statistics[own]
                    for head, hidden in HEADS.items():
                        fitted = fit_head((points - middle) / spread, classes, queries, hidden, steps, seed)
                        heads[which, head, seed] = fitted
            scores: dict[tuple[str, str, int], list[F32]] = {key: [] for key in heads}
            middle, spread = statistics["scans"]
            for where in selection.scenes:
                cache = where.open()
                lifted = lifted_mean(*cache.lifting().lift((features_of(cache, teachers) - middle) / spread))
                for key, fitted in heads.items():
                    with torch.inference_mode():
                        scores[key].append(cosines(fitted(torch.from_numpy(lifted)), torch.from_numpy(queries)).numpy())
            for which in STATISTICS:
                for head in HEADS:
                    runs = [score_lifted(scores[which, head, seed], truth)[""] for seed in range(seeds)]
                    means_of_runs = {key: mean(run[key] for run in runs) for key in ("miou", "f_miou", "auc")}
                    rows[f"{source}, {head}, {which}"] = {**means_of_runs, "runs": runs}
            reporter.advance(1, source)
    rows["embedded:text, zero-shot"] = score_lifted(zero_shot(selection.scenes, queries), truth)[""]
    line = shlex.join(["python", "-m", "evaluation.studies.real_scenes.head_trials", *sys.argv[1:]])
    body = {"rows": rows, "rooms": len(learned.scenes), "steps": steps, "seeds": seeds}
    write_result(out, result_document("head-trials", line, scenes.inputs() | {"rooms": str(rooms)}, body))
    table = [(name, r["miou"], r["f_miou"], r["auc"]) for name, r in rows.items()]
    click.echo(text_table(("", "mIoU", "f-mIoU", "mean AUC"), table))
    return EXIT_DONE


def zero_shot(scenes: Sequence[EvalScene], queries: F32) -> list[F32]:
    """Scores [N, K] of embedded:text itself, per scene."""
    found = []
    for where in scenes:
        cache = where.open()
        cells = standardiser_of(where, TEXT).inverse(features_of(cache, (TEXT,)))
        found.append(lifted_mean(*cache.lifting().lift(cells @ queries.T)))
    return found


if __name__ == "__main__":
    run_cli(command)
