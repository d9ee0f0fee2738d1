"""The objects of a scene, for the viewer's list: which rows, what they are called, where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.errors import ConfigError
from chorus_common.scene import GaussianScene
from chorus_common.scene_io.npy import open_npy
from chorus_common.scene_io.source_properties import CLASS, CONFIDENCE, INSTANCE
from evaluation.boxes import oriented_box
from evaluation.label import Labels
from evaluation.report.colours import class_palette
from evaluation.results import read_result
from evaluation.scenes import LoadedScene
from evaluation.viewer.packed_splats import deflated

I64 = NDArray[np.int64]

#: Two bytes per row hold the number of an object.
MOST_OBJECTS = 65_534


@dataclass(frozen=True, eq=False)
class Objects:
    """ids [N] i64: the object of every row, -1 = none; described: what is known of each, for JSON, in the scene's
    frame.
    """

    ids: I64
    described: tuple[dict[str, Any], ...]

    def packed(self, order: I64) -> bytes:
        """Deflated planes of id + 1, 0 = none, with the rows in `order`."""
        numbers = self.ids[order] + 1
        return deflated([(numbers & 255).astype(np.uint8), (numbers >> 8).astype(np.uint8)])


def objects_of(scene: GaussianScene, labels: Labels, class_names: Sequence[str]) -> Objects:
    """The objects of `labels`, the largest first; at most `MOST_OBJECTS`."""
    ids = np.where(labels.instances < MOST_OBJECTS, labels.instances, -1).astype(np.int64)
    held = np.flatnonzero(ids >= 0)
    held = held[np.argsort(ids[held], kind="stable")]
    bounds = np.searchsorted(ids[held], np.arange(ids.max(initial=-1) + 2))
    palette = np.rint(class_palette(class_names) * 255).astype(int)
    described = []
    for number in range(len(bounds) - 1):
        members = held[bounds[number] : bounds[number + 1]]
        if not len(members):
            continue
        named = labels.classes[members][labels.classes[members] >= 0]
        kind = int(np.bincount(named).argmax()) if len(named) else -1
        known = bool((labels.confidence[members] > 0).any())
        described.append(
            {
                "id": number,
                "class": class_names[kind] if kind >= 0 else None,
                "colour": palette[kind].tolist(),
                "confidence": round(float(labels.confidence[members].mean(dtype=np.float64)), 4) if known else None,
                "count": len(members),
                "box": oriented_box(scene.means[members]).as_dict(decimals=4),
            }
        )
    return Objects(ids, tuple(described))


def true_objects(scene: GaussianScene) -> Labels:
    """Ground-truth instances as labels; without confidence. `scene` has instances."""
    assert scene.instances is not None, "asked for where there are some"
    _, numbers = np.unique(np.where(scene.instances < 0, -1, scene.instances), return_inverse=True)
    numbers = numbers.reshape(-1) - int((scene.instances < 0).any())
    classes = scene.labels if scene.labels is not None else np.full(len(scene), -1, np.int32)
    return Labels(classes, numbers.astype(np.int32), np.zeros(len(scene), np.float32), "ground truth")


def read_labels(folder: Path, scene: LoadedScene) -> tuple[Labels, tuple[str, ...]]:
    """(labels of the scene's rows, class names) of a folder that `chorus-eval label` wrote.

    Raises ConfigError, one line, for a folder that holds none or those of another scene.
    """
    document = read_result(folder / "labels.json")
    try:
        names = tuple(str(entry["name"]) for entry in document["classes"])
    except (KeyError, TypeError):
        raise ConfigError(f"{folder}/labels.json: does not list its classes; is it of chorus-eval label?") from None
    columns = []
    for column in (CLASS, INSTANCE, CONFIDENCE):
        path = folder / f"{column}.npy"
        try:
            values = open_npy(path)
        except OSError as error:
            raise ConfigError(f"{path}: not a readable .npy file ({error})") from None
        if values.shape != (scene.gaussians.source_rows,):
            raise ConfigError(
                f"{path}: has shape {list(values.shape)}, the scene {scene.name} has {scene.gaussians.source_rows} "
                "rows; these are labels of another file"
            )
        columns.append(np.asarray(values)[scene.gaussians.source_ids])
    classes, instances, confidence = columns
    if classes.max(initial=-1) >= len(names):
        raise ConfigError(f"{folder}: has classes that labels.json does not name")
    labels = Labels(classes.astype(np.int32), instances.astype(np.int32), confidence.astype(np.float32), "labels")
    return labels, names
