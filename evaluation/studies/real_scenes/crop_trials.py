"""Whether an ImageNet classifier knows objects of real scans that are cut out for it by the ground truth.

    python -m evaluation.studies.real_scenes.crop_trials --store S --manifest M --out crops.json

The best case of classifying crops of masks. Every object of ScanNet's thing classes that shows enough pixels in a view
of the store is cropped from the rendering: boxes of several sizes, surroundings kept or taken away, several ways to
render. The classifier answers once per crop, and the rules of conse_trials.py make scores of ScanNet's thing classes.
Beside them stand answers without crops: the mean of the class activations and of `embedded:text` under the same masks.
"""

from __future__ import annotations

import shlex
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chorus_common.lifting import CellGrid
from chorus_common.rasterize import get_backend
from chorus_common.runtime.errors import EXIT_DONE, SceneError, run_cli
from chorus_common.runtime.progress import progress
from chorus_common.scene import GaussianScene
from chorus_common.text import load_text_encoder
from chorus_common.text.conse_text import class_names as imagenet_names
from evaluation.benchmarks import thing_classes
from evaluation.commands.options import result_option, scene_options
from evaluation.prompts import class_embeddings
from evaluation.results import result_document, text_table, write_result
from evaluation.scenes import LoadedScene, SceneOptions
from evaluation.studies.real_scenes.conse_trials import (
    VARIANTS,
    Texts,
    Variant,
    read_head,
    read_texts,
    softmax,
)
from evaluation.studies.real_scenes.lifted_scores import area_under_curve
from evaluation.studies.real_scenes.mask_cells import pool_under_masks
from evaluation.studies.real_scenes.object_crops import Surroundings, blur, classify, crop, instances_in_view
from evaluation.studies.real_scenes.plan import FINE_BACKBONE, TEXT, StudyTeacher
from evaluation.studies.real_scenes.store_features import cells_of, standardiser_of

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]

#: Pixels of a view that an object must have.
SMALLEST = 1500
#: Ways to draw a scene: (pixels along a side over those of the view, radii of the Gaussians over their own).
DRAWN = {
    "as the teachers see it": (1.0, 1.0),
    "half the pixels": (0.5, 1.0),
    "radii x 0.4": (1.0, 0.4),
    "radii x 0.6": (1.0, 0.6),
    "radii x 1.5": (1.0, 1.5),
}
STRETCHED = "contrast stretched"
#: (context: side of the crop over the object's, surroundings). All of them for the first way to draw.
BOXES: tuple[tuple[float, Surroundings], ...] = tuple(
    (margin, cast(Surroundings, around)) for margin in (1.0, 1.2, 1.5) for around in ("kept", "mean", "blurred")
)
FEW_BOXES: tuple[tuple[float, Surroundings], ...] = ((1.2, "kept"), (1.2, "blurred"))
PAIRS = Path(__file__).with_name("imagenet_names.toml")


@dataclass
class Objects:
    """M objects in views: thing class [M] as position among the things, which instance of which scene [M] they show,
    crops by (way to draw, context, surroundings), and pooled features by teacher.
    """

    classes: list[int]
    instances: list[tuple[str, int]]
    crops: dict[tuple[str, float, str], list[U8]]
    pooled: dict[StudyTeacher, list[F32]]


def paired_by_hand(things: Sequence[str]) -> Variant:
    """Scores by the table of PAIRS: the classifier chooses among the classes that stand there, and no text counts."""
    first = [synonyms[0] for synonyms in imagenet_names()]
    table = np.zeros((len(first), len(things)), dtype=np.float32)
    for thing, names in tomllib.loads(PAIRS.read_text(encoding="utf-8")).items():
        table[[first.index(name) for name in names], things.index(thing)] = 1
    known = table.any(axis=1)
    return lambda logits, texts: softmax(np.where(known, logits, -np.inf).astype(np.float32)) @ table


def draw(scene: GaussianScene, viewmat: NDArray[np.floating], K: NDArray[np.floating], grid: CellGrid) -> dict[str, U8]:
    """The view drawn in every way, each at the view's own size [H, W, 3] u8."""
    pictures = {}
    rasterizer, size = get_backend("cpu"), (grid.width, grid.height)
    for name, (pixels, radii) in DRAWN.items():
        width, height = (round(side * pixels) for side in size)
        intrinsics = np.array(K, dtype=np.float64)
        intrinsics[:2] *= pixels
        drawn = replace(scene, scales=(scene.scales * radii).astype(np.float32))
        picture = to_bytes(rasterizer.render(drawn, viewmat, intrinsics, width, height).color)
        pictures[name] = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
    plain = pictures[next(iter(DRAWN))].astype(np.float32) / 255
    low, high = np.percentile(plain[plain.any(axis=-1)], (1, 99)) if plain.any() else (0.0, 1.0)
    return pictures | {STRETCHED: to_bytes((plain - low) / max(high - low, 0.05))}


def to_bytes(color: NDArray[np.floating]) -> U8:
    return np.clip(np.rint(color * 255), 0, 255).astype(np.uint8)


def collect(
    scene: LoadedScene, things: Sequence[int], unpacked: Mapping[StudyTeacher, Callable[[F32], F32]], into: Objects
) -> None:
    """Add the objects of one scene; unpacked: of every pooled teacher, from standardised features to its own."""
    gaussians, cache = scene.gaussians, scene.cached()
    if gaussians.labels is None or gaussians.instances is None:
        raise SceneError(f"{scene.name}: has no instances; crops are cut by them")
    cameras = cache.cameras()
    features = {teacher: unpack(cells_of(cache, teacher)) for teacher, unpack in unpacked.items()}
    pixels = CellGrid(cameras.width, cameras.height, 1)
    for view in range(len(cameras)):
        where = cameras.viewmats[view], cameras.intrinsics[view]
        seen = get_backend("cpu").render(gaussians, *where, pixels.width, pixels.height, grid=pixels)
        assert seen.hits is not None
        ids = instances_in_view(seen.hits, gaussians.instances, pixels)
        shown, counts = np.unique(ids[ids >= 0], return_counts=True)
        chosen = []
        for instance in shown[counts >= SMALLEST]:
            labels = gaussians.labels[(gaussians.instances == instance) & (gaussians.labels >= 0)]
            kind = int(np.bincount(labels).argmax()) if len(labels) else -1
            if kind in things:
                chosen.append((int(instance), list(things).index(kind)))
        if not chosen:
            continue
        pictures = draw(gaussians, *where, pixels)
        masks = np.full(ids.shape, -1, dtype=np.int32)
        for k, (instance, kind) in enumerate(chosen):
            masks[ids == instance] = k
            into.classes.append(kind)
            into.instances.append((scene.name, instance))
        for teacher, cells in features.items():
            into.pooled[teacher] += list(pool_under_masks(masks, cells[view], cache.attributes.grid.grid))
        for way, picture in pictures.items():
            soft = blur(picture)
            for margin, around in BOXES if way == next(iter(DRAWN)) else FEW_BOXES:
                crops = into.crops.setdefault((way, margin, around), [])
                crops += [crop(picture, masks == k, margin, around, soft) for k in range(len(chosen))]


def accuracies(scores: F32, classes: NDArray[np.int64], instances: Sequence[tuple[str, int]]) -> dict[str, float]:
    """Of scores [M, K]: accuracy, mean over the classes that are there, mean area under the curve, and the mean
    accuracy over the classes of whole objects, whose views' scores are averaged.
    """
    there = np.unique(classes)
    right = scores.argmax(axis=1) == classes
    _, first, group = np.unique(
        np.array([f"{scene} {i}" for scene, i in instances]), return_index=True, return_inverse=True
    )
    whole = np.zeros((len(first), scores.shape[1]))
    np.add.at(whole, group, scores)
    own = classes[first]
    found = whole.argmax(axis=1) == own
    return {
        "accuracy": float(right.mean()),
        "mean_class_accuracy": float(np.mean([right[classes == k].mean() for k in there])),
        "auc": float(np.mean([area_under_curve(scores[:, k], classes == k) for k in there])),
        "objects_mean_class_accuracy": float(np.mean([found[own == k].mean() for k in there])),
    }


@click.command("crop-trials", context_settings={"show_default": True})
@scene_options
@result_option
def command(scenes: SceneOptions, out: Path) -> int:
    """Ask the classifier about crops of objects."""
    selection, class_names, space = scenes.labelled()
    things = thing_classes(space)
    names = [class_names[k] for k in things]
    texts, (weight, bias) = read_texts(class_names), read_head()
    texts = Texts(texts.names, texts.lengths, texts.queries[list(things)])
    rules: dict[str, Variant] = VARIANTS | {"names paired by hand": paired_by_hand(names)}
    first = selection.scenes[0]
    unpacked = {teacher: standardiser_of(first, teacher).inverse for teacher in (FINE_BACKBONE, TEXT)}
    objects = Objects([], [], {}, {teacher: [] for teacher in unpacked})
    with progress(len(selection.scenes), "objects") as reporter:
        for where in selection.scenes:
            collect(where.load(space), things, unpacked, objects)
            reporter.advance(1, where.name)
    if not objects.classes:
        raise SceneError(f"no object of the things of {space} shows {SMALLEST} pixels in a view")
    classes = np.array(objects.classes)
    answers = {
        f"{way}, context {margin}, surroundings {around}": logits
        for (way, margin, around), logits in zip(
            objects.crops,
            np.split(classify([one for crops in objects.crops.values() for one in crops]), len(objects.crops)),
        )
    }
    answers["no crop: class activations under the mask"] = np.stack(objects.pooled[FINE_BACKBONE]) @ weight.T + bias
    rows = {
        f"{what}: {rule}": accuracies(asked(logits, texts), classes, objects.instances)
        for what, logits in answers.items()
        for rule, asked in rules.items()
    }
    language = np.stack(objects.pooled[TEXT])
    queries = class_embeddings(load_text_encoder(TEXT.spec), names, templates="plain")
    rows["embedded:text under the mask"] = accuracies(
        language / np.linalg.norm(language, axis=1, keepdims=True) @ queries.T, classes, objects.instances
    )
    counts = np.bincount(classes, minlength=len(names))
    rows["always the most frequent class"] = accuracies(
        np.tile(counts, (len(classes), 1)).astype(np.float32), classes, objects.instances
    )
    line = shlex.join(["python", "-m", "evaluation.studies.real_scenes.crop_trials", *sys.argv[1:]])
    body = {"rows": rows, "crops": dict(zip(names, counts.tolist())), "objects": len(set(objects.instances))}
    write_result(out, result_document("crop-trials", line, scenes.inputs(), body))
    table = [(name, *(row[key] for key in COLUMNS)) for name, row in rows.items()]
    click.echo(text_table(("", *COLUMNS.values()), table))
    return EXIT_DONE


COLUMNS = {
    "accuracy": "accuracy", "mean_class_accuracy": "mean over classes", "auc": "mean AUC",
    "objects_mean_class_accuracy": "whole objects",
}  # fmt: skip

if __name__ == "__main__":
    run_cli(command)
