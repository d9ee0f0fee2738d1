"""ConSE over SAM's masks: a mask's vector in all of its pixels, from its crop or from the class activations under it.

    python -m evaluation.studies.real_scenes.mask_trials --store S --manifest M --split val --out masks.json

The store holds features of EfficientNet-Lite0 (timm:tf_efficientnet_lite0/16:lite0), of embedded:text, and SAM's masks
of the same views. A mask's scores are painted into the cells, pixels without a mask keep their cell's, and the cells
are lifted like those of any teacher. Levels are SAM's; "all levels" is the mean of the three paintings.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from chorus_common.cache import SceneCache
from chorus_common.lifting import CellGrid
from chorus_common.runtime.errors import EXIT_DONE, SceneError, run_cli
from chorus_common.runtime.progress import progress
from chorus_common.text import load_text_encoder
from evaluation.commands.options import result_option, scene_options
from evaluation.prompts import class_embeddings
from evaluation.results import result_document, text_table, write_result
from evaluation.scenes import SceneOptions
from evaluation.studies.real_scenes.conse_trials import VARIANTS, Texts, read_head, read_texts
from evaluation.studies.real_scenes.lifted_scores import LabelledScenes, lifted_mean, score_lifted
from evaluation.studies.real_scenes.mask_cells import paint_masks, pool_under_masks
from evaluation.studies.real_scenes.object_crops import Surroundings, blur, classify, crop
from evaluation.studies.real_scenes.plan import FINE_BACKBONE, SAM_MASKS, TEXT
from evaluation.studies.real_scenes.store_features import cells_of, standardiser_of

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]

ALL_LEVELS = "all levels"
CONTEXT = 1.2
SURROUNDINGS: tuple[Surroundings, ...] = ("kept", "mean")
RULES = ("ten likeliest classes", "ten likeliest, without animals")


def paintings(
    cells: F32, masks: Mapping[str, list[I32]], of_masks: Mapping[str, list[F32]], grid: CellGrid
) -> dict[str, F32]:
    """Scores [V * cells, K] by level and of all levels, of scores per cell [V, cells, K], and of the masks of every
    level: ids per view [H, W] and scores per view [M, K].
    """
    painted = {
        level: np.concatenate(
            [paint_masks(ids, scores, own, grid) for ids, scores, own in zip(of_views, of_masks[level], cells)]
        )
        for level, of_views in masks.items()
    }
    return painted | {ALL_LEVELS: np.mean(list(painted.values()), axis=0, dtype=np.float32)}


def crop_logits(cache: SceneCache, masks: Mapping[str, list[I32]]) -> dict[Surroundings, dict[str, list[F32]]]:
    """Logits [M, 1000] of the crops of all masks, by surroundings, level and view."""
    crops: list[U8] = []
    counts: list[int] = []
    for around in SURROUNDINGS:
        for of_views in masks.values():
            for picture, ids in zip(cache.rgb(), of_views):
                soft = blur(picture)
                counts.append(int(ids.max(initial=-1)) + 1)
                crops += [crop(picture, ids == k, CONTEXT, around, soft) for k in range(counts[-1])]
    logits = classify(crops) if crops else np.zeros((0, 1000), np.float32)
    parts = iter(np.split(logits, np.cumsum(counts)[:-1]))
    return {
        around: {level: [next(parts) for _ in of_views] for level, of_views in masks.items()} for around in SURROUNDINGS
    }


@click.command("mask-trials", context_settings={"show_default": True})
@scene_options
@result_option
def command(scenes: SceneOptions, out: Path) -> int:
    """Paint what the classifier says of SAM's masks, and lift it."""
    selection, class_names, space = scenes.labelled()
    texts, (weight, bias) = read_texts(class_names), read_head()
    queries = class_embeddings(load_text_encoder(TEXT.spec), class_names, templates="plain")
    of_lite0, of_text = (standardiser_of(selection.scenes[0], teacher) for teacher in (FINE_BACKBONE, TEXT))
    lifted: dict[str, list[F32]] = {}
    labels: list[NDArray[np.int32]] = []
    means: list[F32] = []
    with progress(len(selection.scenes), "mask trials") as reporter:
        for where in selection.scenes:
            scene = where.load(space)
            if scene.gaussians.labels is None:
                raise SceneError(f"{scene.name}: has no labels; the trials are scored on them")
            labels.append(scene.gaussians.labels)
            means.append(scene.gaussians.means)
            cache = scene.cached()
            index, grid = cache.lifting(), cache.attributes.grid.grid
            masks = {
                level: list(cache.masks(SAM_MASKS.name, level)) for level in cache.mask_teachers[SAM_MASKS.name].levels
            }
            found: dict[str, F32] = {}
            features = of_lite0.inverse(cells_of(cache, FINE_BACKBONE))  # [V, cells, 1280]
            of_crops = crop_logits(cache, masks)
            for rule in RULES:
                cells = asked(features @ weight.T + bias, rule, texts)
                found[f"ConSE, {rule}: cells alone"] = cells.reshape(-1, cells.shape[-1])
                pooled = {
                    level: [
                        asked(pool_under_masks(ids, f, grid) @ weight.T + bias, rule, texts)
                        for ids, f in zip(of_views, features)
                    ]
                    for level, of_views in masks.items()
                }
                for level, painted in paintings(cells, masks, pooled, grid).items():
                    found[f"ConSE, {rule}: activations under the masks, {level}"] = painted
                for around, by_level in of_crops.items():
                    scores = {level: [asked(z, rule, texts) for z in views] for level, views in by_level.items()}
                    for level, painted in paintings(cells, masks, scores, grid).items():
                        found[f"ConSE, {rule}: crops of the masks, surroundings {around}, {level}"] = painted
            language = of_text.inverse(cells_of(cache, TEXT))
            cells = language @ queries.T
            found["embedded:text: cells alone"] = cells.reshape(-1, cells.shape[-1])
            pooled = {
                level: [pool_under_masks(ids, f, grid) @ queries.T for ids, f in zip(of_views, language)]
                for level, of_views in masks.items()
            }
            for level, painted in paintings(cells, masks, pooled, grid).items():
                found[f"embedded:text: under the masks, {level}"] = painted
            for name, scores_of_cells in found.items():
                lifted.setdefault(name, []).append(lifted_mean(*index.lift(scores_of_cells)))
            reporter.advance(1, where.name)
    labelled = LabelledScenes(class_names, labels, means)
    rows = {
        name + decision: row
        for name, parts in lifted.items()
        for decision, row in score_lifted(parts, labelled).items()
    }
    line = shlex.join(["python", "-m", "evaluation.studies.real_scenes.mask_trials", *sys.argv[1:]])
    write_result(out, result_document("mask-trials", line, scenes.inputs(), {"rows": rows}))
    table = [(name, r["miou"], r["f_miou"], r["auc"]) for name, r in rows.items()]
    click.echo(text_table(("", "mIoU", "f-mIoU", "mean AUC"), table))
    return EXIT_DONE


def asked(logits: F32, rule: str, texts: Texts) -> F32:
    """Scores [..., K] of logits [..., 1000] by a rule of conse_trials.py."""
    flat = (
        VARIANTS[rule](logits.reshape(-1, logits.shape[-1]), texts)
        if logits.size
        else np.zeros((0, len(texts.queries)), np.float32)
    )
    return flat.reshape(*logits.shape[:-1], flat.shape[-1])


if __name__ == "__main__":
    run_cli(command)
