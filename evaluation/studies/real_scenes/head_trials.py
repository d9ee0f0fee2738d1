"""Text-aligned heads on real frozen features, fitted on synthetic rooms alone and asked about real scans.

    python -m evaluation.studies.real_scenes.head_trials --store S --manifest SCANS --rooms ROOMS --out heads.json

A head turns a teacher's lifted features into the space of `embedded:text`: logits are SHARPNESS times the cosines with
the vectors of the class names, and the loss is the cross-entropy with the rooms' labels, classes weighted alike. No
label of a scan is read before the scores. "own statistics" brings rooms to mean 0 and deviation 1 per channel by their
own pictures, and scans by the pictures of other scans (--statistics-split). Heads answer in one space, so their cosines
can be averaged.
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
from evaluation.scenes import EvalScene, SceneOptions, select_scenes
from evaluation.studies.real_scenes.lifted_scores import LabelledScenes, lifted_mean, score_lifted
from evaluation.studies.real_scenes.plan import FINE_BACKBONE, SAM, TEXT, StudyTeacher
from evaluation.studies.real_scenes.store_features import cells_of, standardiser_of

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

TEACHERS = (FINE_BACKBONE, SAM, TEXT)
#: Teachers whose features a head reads, side by side where there are several.
SOURCES: dict[str, tuple[StudyTeacher, ...]] = {
    "lite0": (FINE_BACKBONE,),
    "SAM's encoder": (SAM,),
    "lite0 and SAM's encoder": (FINE_BACKBONE, SAM),
    "embedded:text": (TEXT,),
}
#: Heads whose cosines are averaged.
AVERAGES = {
    "mean of the heads on SAM's encoder and on embedded:text": ("SAM's encoder", "embedded:text"),
    "mean of the heads on lite0 and SAM's encoder, and on embedded:text": ("lite0 and SAM's encoder", "embedded:text"),
}
#: Width of the hidden layer; 0 = linear.
HEADS = {"linear": 0, "one hidden layer of 256": 256}
STATISTICS = ("statistics of the scans for both", "own statistics")
#: Source, head, statistics, seed.
Key = tuple[str, str, str, int]
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


def columns_of(cache: SceneCache, source: Sequence[StudyTeacher]) -> I64:
    """Where the channels of a source's teachers stand among those of TEACHERS."""
    widths = [cache.dense_teachers[teacher.name].channels for teacher in TEACHERS]
    owner = np.repeat(np.arange(len(TEACHERS)), widths)
    return np.concatenate([np.flatnonzero(owner == TEACHERS.index(teacher)) for teacher in source])


def channel_statistics(scenes: Sequence[EvalScene]) -> tuple[F32, F32]:
    """Mean and deviation [C] of the channels of TEACHERS over all cells of all views."""
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for where in scenes:
        cells = features_of(where.open(), TEACHERS).astype(np.float64)
        count, total, squares = count + len(cells), total + cells.sum(axis=0), squares + (cells**2).sum(axis=0)
    middle = total / count
    spread = np.sqrt(np.maximum(squares / count - middle**2, 1e-12))
    return middle.astype(np.float32), spread.astype(np.float32)


def draw_points(where: EvalScene, number: int, space: str, seeds: int) -> list[tuple[F32, I64]]:
    """Per seed the lifted features [P, C] and classes [P] of POINTS labelled Gaussians of a scene, the `number`th."""
    scene = where.load(space)
    known = scene.gaussians.labels
    if known is None:
        raise SceneError(f"{scene.name}: has no labels; heads are fitted to them")
    lifted = lifted_mean(*scene.cached().lifting().lift(features_of(scene.cached(), TEACHERS)))
    usable = np.flatnonzero((known >= 0) & ~np.isnan(lifted[:, 0]))
    drawn = []
    for seed in range(seeds):
        rows = np.random.default_rng((seed, number)).choice(usable, min(POINTS, len(usable)), replace=False)
        drawn.append((lifted[rows], known[rows].astype(np.int64)))
    return drawn


@click.command("head-trials", context_settings={"show_default": True})
@scene_options
@click.option("--rooms", type=FILE, required=True, help="Manifest of synthetic rooms, in the same store.")
@click.option("--statistics-split", default="train", help="Split of the scans whose pictures give statistics.")
@click.option("--steps", type=click.IntRange(min=1), default=200, help="Steps of a head.")
@click.option("--seeds", type=click.IntRange(min=1), default=2, help="Heads per row.")
@result_option
def command(scenes: SceneOptions, rooms: Path, statistics_split: str, steps: int, seeds: int, out: Path) -> int:
    """Fit heads on rooms, and score them on scans."""
    selection, class_names, space = scenes.labelled()
    learned, _, _ = SceneOptions(scenes.stores, rooms, "train", space).labelled()
    others = select_scenes(scenes.stores, scenes.manifest, statistics_split)
    queries = class_embeddings(load_text_encoder(TEXT.spec), class_names, templates="plain")
    columns = {name: columns_of(learned.scenes[0].open(), teachers) for name, teachers in SOURCES.items()}
    statistics = {"rooms": channel_statistics(learned.scenes), "scans": channel_statistics(others.scenes)}
    heads: dict[Key, nn.Module] = {}
    scores: dict[Key, list[F32]] = {}
    zero_shot: dict[str, list[F32]] = {}
    labels: list[NDArray[np.int32]] = []
    means: list[F32] = []
    with progress(len(learned.scenes) + len(columns) * seeds + len(selection.scenes), "heads") as reporter:
        drawn = []
        for number, where in enumerate(learned.scenes):
            drawn.append(draw_points(where, number, space, seeds))
            reporter.advance(1, where.name)
        for seed in range(seeds):
            points, classes = (np.concatenate(parts) for parts in zip(*(of_seed[seed] for of_seed in drawn)))
            for source, own in columns.items():
                for which, kind in zip(STATISTICS, ("scans", "rooms")):
                    centred = standardised(points, statistics[kind])[:, own]
                    for head, hidden in HEADS.items():
                        heads[source, head, which, seed] = fit_head(centred, classes, queries, hidden, steps, seed)
                reporter.advance(1, f"{source}, seed {seed}")
        for where in selection.scenes:
            scene = where.load(space)
            if scene.gaussians.labels is None:
                raise SceneError(f"{where.name}: has no labels; the trials are scored on them")
            labels.append(scene.gaussians.labels)
            means.append(scene.gaussians.means)
            lifted = lifted_mean(*scene.cached().lifting().lift(features_of(scene.cached(), TEACHERS)))
            centred = standardised(lifted, statistics["scans"])
            for key, fitted in heads.items():
                with torch.inference_mode():
                    found = cosines(fitted(torch.from_numpy(centred[:, columns[key[0]]])), torch.from_numpy(queries))
                scores.setdefault(key, []).append(found.numpy())
            middle, spread = statistics["rooms"]
            for name, values in (
                ("embedded:text, zero-shot", lifted),
                ("embedded:text, zero-shot, at the rooms' statistics", centred * spread + middle),
            ):
                own_space = standardiser_of(where, TEXT).inverse(values[:, columns["embedded:text"]])
                zero_shot.setdefault(name, []).append(own_space @ queries.T)
            reporter.advance(1, where.name)
    for name, parts in AVERAGES.items():
        for head in HEADS:
            for which in STATISTICS:
                for seed in range(seeds):
                    together = zip(*(scores[source, head, which, seed] for source in parts))
                    scores[name, head, which, seed] = [np.mean(found, axis=0) for found in together]
    truth = LabelledScenes(class_names, labels, means)
    rows: dict[str, dict[str, Any]] = {}
    for source in (*SOURCES, *AVERAGES):
        for head in HEADS:
            for which in STATISTICS:
                runs = [score_lifted(scores[source, head, which, seed], truth)[""] for seed in range(seeds)]
                mean_of_runs = {key: mean(run[key] for run in runs) for key in ("miou", "f_miou", "auc")}
                rows[f"{source}, {head}, {which}"] = {**mean_of_runs, "runs": runs}
    rows |= {name: score_lifted(found, truth)[""] for name, found in zero_shot.items()}
    line = shlex.join(["python", "-m", "evaluation.studies.real_scenes.head_trials", *sys.argv[1:]])
    inputs = scenes.inputs() | {"rooms": str(rooms), "statistics_split": statistics_split}
    body = {"rows": rows, "rooms": len(learned.scenes), "steps": steps, "seeds": seeds}
    write_result(out, result_document("head-trials", line, inputs, body))
    table = [(name, r["miou"], r["f_miou"], r["auc"]) for name, r in rows.items()]
    click.echo(text_table(("", "mIoU", "f-mIoU", "mean AUC"), table))
    return EXIT_DONE


def standardised(features: F32, statistics: tuple[F32, F32]) -> F32:
    """(features - mean) / deviation per channel."""
    middle, spread = statistics
    return (features - middle) / spread


if __name__ == "__main__":
    run_cli(command)
