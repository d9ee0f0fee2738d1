"""Point clouds beside a Gaussian scene: the points that benchmarks score, which are not the Gaussians.

Layout: SceneSplat's folders (SceneSplat datasets/preprocessing), in the Gaussians' frame, metres:

    pc_coord.npy [M, 3] f32;  pc_segment<K>.npy or pc_segment.npy [M], -1 = unlabelled;  pc_instance.npy [M], < 0 = none
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.labels import SPACES
from chorus_common.runtime.errors import SceneError, one_line
from chorus_common.scene_io.npy import open_npy
from evaluation.scenes import LoadedScene


@dataclass(frozen=True, eq=False)
class PointTruth:
    """coord [M, 3] f32 metres; labels [M] i32 (-1 = no ground truth) and instances [M] i32 (-1 = none), or None where
    there is no such file.
    """

    coord: NDArray[np.float32]
    labels: NDArray[np.int32] | None
    instances: NDArray[np.int32] | None


def point_files(label_space: str) -> tuple[tuple[str, ...], ...]:
    """Names of the files that `read_point_truth` reads, in groups of which it takes the first that there is."""
    return (("pc_coord.npy",), _segment_names(label_space), ("pc_instance.npy",))


def point_truth(scene: LoadedScene, label_space: str) -> PointTruth | None:
    """The cloud beside the source of `scene`; see `read_point_truth`."""
    if scene.where.source is None:
        return None
    with scene.where.source_files(point_files(label_space)) as here:
        return read_point_truth(here, label_space, scene.name)


def _segment_names(label_space: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((f"pc_{SPACES[label_space].file}.npy", "pc_segment.npy")))


def read_point_truth(folder: Path | None, label_space: str, who: str) -> PointTruth | None:
    """The cloud in `folder` (a scene's source), or None where there is none. Raises SceneError, one line, for arrays
    that are damaged, do not fit each other or hold labels outside `label_space`.
    """
    if folder is None or not (folder / "pc_coord.npy").is_file():
        return None
    coord = _load(folder / "pc_coord.npy", who)
    if coord.ndim != 2 or coord.shape[1] != 3:
        raise SceneError(f"{who}: pc_coord.npy has shape {coord.shape}, expected (M, 3)")
    if coord.dtype.kind != "f" or not np.isfinite(coord).all():
        raise SceneError(f"{who}: pc_coord.npy must hold finite floats")
    segments = [folder / name for name in _segment_names(label_space) if (folder / name).is_file()]
    labels = _ids(segments[0], len(coord), who) if segments else None
    k = len(SPACES[label_space].names)
    if labels is not None and len(labels) and (labels.min() < -1 or labels.max() >= k):
        wrong = int(labels.min()) if labels.min() < -1 else int(labels.max())
        raise SceneError(f"{who}: {segments[0].name} holds label {wrong}, outside {label_space} with {k} classes")
    file = folder / "pc_instance.npy"
    instances = _ids(file, len(coord), who) if file.is_file() else None
    return PointTruth(coord.astype(np.float32), labels, instances)


def _load(path: Path, who: str) -> NDArray[np.generic]:
    try:
        return open_npy(path)
    except (SceneError, OSError) as error:
        raise SceneError(f"{who}: labelled point cloud is not readable ({one_line(error)})") from None


def _ids(path: Path, n: int, who: str) -> NDArray[np.int32]:
    """One id per point; of several columns the first counts (ScanNet++ keeps more)."""
    array = _load(path, who)
    if array.dtype.kind not in "iu":
        raise SceneError(f"{who}: {path.name} must hold integers, found {array.dtype}")
    column = array[:, 0] if array.ndim == 2 and array.shape[1] else array
    if column.shape != (n,):
        raise SceneError(f"{who}: pc_coord.npy has {n} points and {path.name} {array.shape}; they do not fit")
    return column.astype(np.int32)
