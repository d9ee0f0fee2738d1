"""Labels for every row of a scene's own file: class, object and confidence, and what the objects are.

The class of a Gaussian is the class name whose text embedding is nearest to its feature (as in zero-shot segmentation).
Objects are connected sets of Gaussians of one class, or the merged 2D masks of a cache.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from chorus_common.labels import LABEL_SPACES
from chorus_common.runtime.errors import ConfigError
from chorus_common.scene_io.source_properties import CLASS, CONFIDENCE, INSTANCE
from chorus_common.text import TextEncoder
from chorus_common.text.known_words import refuse_unknown, unknown
from evaluation.boxes import oriented_box
from evaluation.features import PASS, AskedFeatures, SceneFeatures
from evaluation.heads.components import connected_components
from evaluation.neighbours import nearest_gaussians
from evaluation.proposals.merged_masks import MergeConfig, MergedMasks
from evaluation.report.colours import class_palette
from evaluation.scenes import LoadedScene
from evaluation.targets import open_target
from evaluation.tasks.instances import pool_features

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

#: Of the softmax over cosines that is the confidence (as in the task `instances`).
TEMPERATURE = 0.02
#: Gaussians that the spacing of a scene is measured at, and the least reach of a link between two of them, in metres.
_SAMPLE, _LEAST_RADIUS = 20_000, 0.02


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of a scene's N Gaussians, in its order.

    classes, instances [N] i32, -1 = none; confidence [N] f32 in [0, 1]; origin: "clusters" or "masks".
    Instances are numbered from the largest to the smallest.
    """

    classes: I32
    instances: I32
    confidence: F32
    origin: str

    def columns(self, scene: LoadedScene) -> dict[str, NDArray[Any]]:
        """The columns for the rows of the scene's file: name -> [rows]. Rows that were left out get -1 and 0."""
        confidence = np.zeros(scene.gaussians.source_rows, np.float32)
        confidence[scene.gaussians.source_ids] = self.confidence
        return {
            CLASS: scene.in_source_order(self.classes),
            INSTANCE: scene.in_source_order(self.instances),
            CONFIDENCE: confidence,
        }


def read_classes(words: str) -> tuple[str, ...]:
    """Class names from the name of a label space, a file with one name per line, or names between commas.

    Raises ConfigError, one line, for a missing file, no names, or a name that comes twice.
    """
    if words in LABEL_SPACES:
        return LABEL_SPACES[words]
    path = Path(words)
    if "," not in words and (path.suffix in (".txt", ".csv", ".list") or os.sep in words or path.is_file()):
        try:
            names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--classes {words}: not a readable list of names ({error})") from None
        names = [name for name in names if name and not name.startswith("#")]
    else:
        names = [name.strip() for name in words.split(",") if name.strip()]
    if not names:
        raise ConfigError(f"--classes {words!r}: holds no class names; give chair,table or a file with a name per line")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"--classes: {twice[0]!r} is there twice; give every class once")
    return tuple(names)


def check_known(text_encoder: TextEncoder, names: Sequence[str], words: str) -> None:
    """Refuse names that the text side knows nothing of: some class would be given for them, as surely as for any other.
    Of a benchmark's label space (`words`), which nobody chose name by name, they are only told.
    """
    if words not in LABEL_SPACES:
        refuse_unknown(text_encoder, names, "class")
    elif lost := unknown(text_encoder, names):
        some = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
        line = (
            f"warning: {len(lost)} of the {len(names)} classes of {words} mean nothing to {text_encoder.spec}: {some}"
        )
        click.echo(line, err=True)


def classify(features: SceneFeatures, n: int, text: F32) -> tuple[I32, F32]:
    """(class [N], confidence [N]) of features against unit rows text [K, C].

    The confidence is the softmax over the cosines divided by `TEMPERATURE`. A feature of zeros has class -1 and
    confidence 0.
    """
    if isinstance(features, AskedFeatures):
        asked = features.ask(text, lambda cosines: np.stack(_best(cosines), axis=1), cosines=True)
        if asked is not None:
            return asked[:, 0].astype(np.int32), asked[:, 1].astype(np.float32)
    classes, confidence = np.full(n, -1, np.int32), np.zeros(n, np.float32)
    for start in range(0, n, PASS):
        stop = min(n, start + PASS)
        classes[start:stop], confidence[start:stop] = nearest_class(features.rows(start, stop), text)
    return classes, confidence


def nearest_class(features: NDArray[np.floating], text: F32) -> tuple[I32, F32]:
    """`classify` for features [P, C] that lie in memory."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    known = length[:, 0] > 0
    best, share = _best((features / np.where(length > 0, length, 1)) @ text.T)
    return np.where(known, best, -1).astype(np.int32), np.where(known, share, 0).astype(np.float32)


def _best(cosines: NDArray[np.floating]) -> tuple[NDArray[np.integer], NDArray[np.floating]]:
    """(class [P] of the greatest of cosines [P, K], its softmax [P])."""
    scores = cosines / TEMPERATURE
    best = scores.argmax(axis=1)
    top = scores[np.arange(len(scores)), best]
    return best, 1 / np.exp(scores - top[:, None]).sum(axis=1)


def spacing(means: NDArray[np.floating]) -> float:
    """Median distance from a Gaussian to the nearest other one, metres, from an even sample of the rows."""
    sample = means[:: max(1, len(means) // _SAMPLE)]
    nearest = nearest_gaussians(means, sample, min(2, len(means)))[:, -1]
    return float(np.median(np.linalg.norm(means[nearest].astype(np.float64) - sample, axis=1)))


def label_scene(
    scene: LoadedScene,
    features: SceneFeatures,
    text: F32,
    *,
    instances: str = "auto",
    radius: float | None = None,
    min_size: int = 20,
) -> Labels:
    """Labels of `scene` for the classes whose text embeddings are `text` [K, C], unit rows.

    Args:
        instances: "clusters": connected Gaussians of one class; "masks": the cache's merged 2D masks, of which every
            Gaussian takes the best that holds it, with class and confidence of its pooled feature; "auto": masks where
            the scene's cache has them.
        radius: metres between Gaussians that are linked; None: four times the scene's spacing, at least 0.02.
        min_size: Gaussians of an object; smaller clusters are no objects.
    """
    gaussians = scene.gaussians
    classes, confidence = classify(features, len(gaussians), text)
    has_masks = scene.cache is not None and len(scene.cache.mask_teachers) == 1
    if instances == "masks" or (instances == "auto" and has_masks):
        found = np.full(len(gaussians), -1, np.int32)
        target = open_target(scene, "gaussians", gaussians.label_space)
        proposals = MergedMasks(MergeConfig(min_size=min_size)).open(target)
        masks = proposals.on_gaussians
        kinds, shares = nearest_class(pool_features(features, len(gaussians), masks), text)
        for row in np.argsort(proposals.scores, kind="stable"):  # the best mask comes last and stays
            found[masks.indices[masks.indptr[row] : masks.indptr[row + 1]]] = row
        held = found >= 0
        classes[held], confidence[held] = kinds[found[held]], shares[found[held]]
        return Labels(classes, _by_size(found, 1), confidence, "masks")
    reach = radius if radius is not None else max(4 * spacing(gaussians.means), _LEAST_RADIUS)
    clusters = connected_components(gaussians.means, classes, reach)
    return Labels(classes, _by_size(clusters, min_size), confidence, "clusters")


def _by_size(groups: NDArray[np.integer], min_size: int) -> I32:
    """Groups [N] (-1 = none) numbered from the largest to the smallest, ties in their own order; small ones are -1."""
    sizes = np.bincount(groups[groups >= 0], minlength=1)
    order = np.lexsort((np.arange(len(sizes)), -sizes))
    order = order[sizes[order] >= max(min_size, 1)]
    number = np.full(len(sizes) + 1, -1, np.int32)  # the last stands for -1
    number[order] = np.arange(len(order))
    return number[groups]


def describe_objects(scene: LoadedScene, labels: Labels, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Every object for JSON: class, confidence, count, centre and oriented box in the frame and unit of the file."""
    held = np.flatnonzero(labels.instances >= 0)
    held = held[np.argsort(labels.instances[held], kind="stable")]
    bounds = np.searchsorted(labels.instances[held], np.arange(labels.instances.max(initial=-1) + 2))
    found = []
    for number in range(len(bounds) - 1):
        members = held[bounds[number] : bounds[number + 1]]
        means = scene.gaussians.means[members].astype(np.float64)
        kind = int(labels.classes[members[0]])
        found.append(
            {
                "id": number,
                "class_id": kind,
                "class": class_names[kind] if kind >= 0 else None,
                "confidence": round(float(labels.confidence[members].mean(dtype=np.float64)), 6),
                "count": len(members),
                "centre": np.round(scene.alignment.points_back(means.mean(axis=0)[None])[0], 6).tolist(),
                "box": oriented_box(means).in_file(scene.alignment).as_dict(),
            }
        )
    return found


def class_table(class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Every class for JSON: its id, name and colour (0 to 255)."""
    colours = np.rint(class_palette(class_names)[:-1] * 255).astype(int)
    return [{"id": i, "name": name, "colour": colours[i].tolist()} for i, name in enumerate(class_names)]
