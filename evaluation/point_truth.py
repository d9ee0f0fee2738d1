"""Labelled point clouds beside a Gaussian scene: the points that benchmarks score, which are not the Gaussians.

Layout: SceneSplat's folders, pc_coord.npy [M, 3] f32 metres in the Gaussians' frame and pc_segment<K>.npy or
pc_segment.npy [M] with -1 = unlabelled (SceneSplat datasets/preprocessing).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.errors import SceneError
from chorus_common.labels import LABEL_SPACES


@dataclass(frozen=True)
class PointTruth:
    """coord [M, 3] f32 metres, labels [M] i32 (-1 = no ground truth)."""

    coord: NDArray[np.float32]
    labels: NDArray[np.int32]


def read_point_truth(folder: Path | None, label_space: str, who: str) -> PointTruth | None:
    """The labelled cloud in `folder` (a scene's source), or None where there is none. Raises SceneError for a damaged
    one.
    """
    if folder is None or not folder.is_dir():
        return None
    digits = re.sub(r"\D", "", label_space)
    segments = [p for p in (folder / f"pc_segment{digits}.npy", folder / "pc_segment.npy") if p.is_file()]
    coord_path = folder / "pc_coord.npy"
    if not segments or not coord_path.is_file():
        return None
    try:
        coord = np.load(coord_path, allow_pickle=False)
        labels = np.load(segments[0], allow_pickle=False)
    except (ValueError, OSError) as error:
        raise SceneError(f"{who}: {folder}: labelled point cloud is not readable ({error})") from None
    labels = labels.reshape(-1)
    if coord.ndim != 2 or coord.shape[1] != 3 or len(labels) != len(coord):
        raise SceneError(
            f"{who}: {coord_path.name} has shape {coord.shape} and {segments[0].name} {labels.shape}; they do not fit"
        )
    if coord.dtype.kind != "f" or labels.dtype.kind not in "iu" or not np.isfinite(coord).all():
        raise SceneError(f"{who}: {coord_path.name} must hold finite floats and {segments[0].name} integers")
    k = len(LABEL_SPACES[label_space])
    if len(labels) and (labels.min() < -1 or labels.max() >= k):
        raise SceneError(
            f"{who}: {segments[0].name} holds label {int(labels.max())}, outside {label_space} with {k} classes"
        )
    return PointTruth(coord.astype(np.float32), labels.astype(np.int32))
