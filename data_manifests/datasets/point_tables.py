"""Scenes as one .npy table of points with labels in .npy files beside it, as detection code bases leave them.

Example: VoteNet's ScanNet export (facebookresearch/votenet scannet/batch_load_scannet_data.py): <scan>_vert.npy
[50000, 6] f32 (x, y, z in metres, r, g, b to 255), <scan>_sem_label.npy [50000] NYU40 ids with 0 = none,
<scan>_ins_label.npy [50000] with 0 = none.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.labels import SPACES
from chorus_common.scene_io.bounds import check_finite, fail
from data_manifests.datasets.arrays import ids_1d, instance_ids, load_array, rgb_u8
from data_manifests.datasets.find import Found, find_by_pattern
from data_manifests.datasets.raw_scene import Annotations, LabelledPoints, RawScene, SceneSource
from data_manifests.datasets.settings import PointTables

#: `label_ids` -> label space that understands such ids.
_ID_SPACE = {"nyu40id": "scannet20", "scannet-id": "scannet200"}


def find_point_tables(release: PointTables, root: Path, wanted: list[str]) -> Found:
    """The scenes of `release` under `root`."""
    found = find_by_pattern(release.scenes, release.split_lists, root, wanted)
    found.scenes = [
        replace(source, files=(source.path, *_beside(source, release.labels), *_beside(source, release.instances)))
        for source in found.scenes
    ]
    return found


def read_point_table(source: SceneSource, root: Path, release: PointTables, label_spaces: list[str]) -> RawScene:
    """One scene.

    Raises SceneError: a file is missing, damaged, of another length, or holds labels outside the label space.
    """
    table = load_array(source.path)
    if table.ndim != 2 or table.shape[1] < 6 or table.dtype.kind not in "fiu" or len(table) == 0:
        fail(source.path, f"holds {table.dtype} of shape {table.shape}; expected points [M, >= 6] (x, y, z, r, g, b)")
    check_finite(source.path, points=np.asarray(table[:, :6], np.float64))
    segments: dict[str, NDArray[np.int16]] = {}
    annotated = instances = None
    for file in _beside(source, release.labels):
        ids = ids_1d(file, len(table))
        space = label_spaces[0] if release.label_ids == "index" else _ID_SPACE[release.label_ids]
        if space not in label_spaces:
            fail(file, f"{release.label_ids} labels are those of {space}, which is not among the label spaces to write")
        if release.label_ids == "index":
            segments[space] = _indices(file, ids, len(SPACES[space].names))
        else:
            segments[space] = SPACES[space].from_ids(ids)
            annotated = ids > 0
    for file in _beside(source, release.instances):
        instances = instance_ids(file, ids_1d(file, len(table)), release.no_instance)
    points = LabelledPoints(
        np.ascontiguousarray(table[:, :3], np.float32),
        rgb_u8(source.path, np.asarray(table[:, 3:6])),
        None,
        Annotations(segments, instances, annotated),
    )
    return RawScene(points)


def _beside(source: SceneSource, pattern: str) -> tuple[Path, ...]:
    return (source.path.parent / pattern.replace("{scene_id}", source.scene_id),) if pattern else ()


def _indices(file: Path, ids: NDArray[np.int64], n_classes: int) -> NDArray[np.int16]:
    """Class indices; negative ones mean none. SceneError where one is no class."""
    if (top := int(ids.max(initial=-1))) >= n_classes:
        fail(file, f"holds label {top}, but the label space has {n_classes} classes")
    return np.maximum(ids, -1).astype(np.int16)
