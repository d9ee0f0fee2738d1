"""Label files of a folder of .npy arrays, as SceneSplat and Pointcept name them: segment20, segment200, segment, ..."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.labels import SPACES
from chorus_common.scene_io.bounds import fail
from data_manifests.datasets.arrays import ids_1d, instance_ids
from data_manifests.datasets.raw_scene import Annotations


def read_labels(folder: Path, n: int, label_spaces: list[str], prefix: str = "") -> Annotations:
    """Annotations of `n` rows; prefix "pc_" takes those of the points beside Gaussians.

    A label space takes its own file, or segment.npy where it is the only one asked for. Negative labels mean none.
    Raises SceneError for another length, other values than integers, and labels outside the label space.
    """
    segments: dict[str, NDArray[np.int16]] = {}
    for name in label_spaces:
        candidates = [SPACES[name].file, *(["segment"] if len(label_spaces) == 1 else [])]
        file = next((f for c in candidates if (f := folder / f"{prefix}{c}.npy").is_file()), None)
        if file is None:
            continue
        labels = ids_1d(file, n)
        if (top := int(labels.max(initial=-1))) >= len(SPACES[name].names):
            fail(file, f"holds label {top}, outside {name} with {len(SPACES[name].names)} classes")
        segments[name] = np.maximum(labels, -1).astype(np.int16)
    file = folder / f"{prefix}instance.npy"
    instances = instance_ids(file, ids_1d(file, n)) if file.is_file() else None
    return Annotations(segments, instances)
