"""Pointcept's preprocessed scenes: points with labels as .npy files in a folder per scene.

Layout (Pointcept datasets/preprocessing): coord f32 [M, 3] m, color u8 [M, 3], normal f32 [M, 3] where known, segment20
/ segment200 (ScanNet) or segment [M] or [M, 1] (S3DIS), instance; -1 = none. Row order is the release's vertex order.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.scene_io.bounds import check_finite, fail
from data_manifests.datasets.arrays import load_array, rgb_u8, unit_or_up
from data_manifests.datasets.find import Found, find_by_pattern
from data_manifests.datasets.label_files import read_labels
from data_manifests.datasets.raw_scene import LabelledPoints, RawScene, SceneSource
from data_manifests.datasets.settings import PointceptFolders


def find_pointcept(release: PointceptFolders, root: Path, wanted: list[str]) -> Found:
    """The scenes of `release` under `root`."""
    found = find_by_pattern(release.scenes, release.split_lists, root, wanted, release.scene_ids)
    found.scenes = [replace(source, files=tuple(sorted(source.path.glob("*.npy")))) for source in found.scenes]
    return found


def read_pointcept(source: SceneSource, root: Path, release: PointceptFolders, label_spaces: list[str]) -> RawScene:
    """One scene. Raises SceneError, one line, for missing or damaged arrays and labels outside the label spaces."""
    coord = _rows(source.path / "coord.npy", None)
    color = rgb_u8(source.path / "color.npy", _rows(source.path / "color.npy", len(coord)))
    file = source.path / "normal.npy"
    normal = unit_or_up(_rows(file, len(coord))) if file.is_file() else None
    truth = read_labels(source.path, len(coord), label_spaces)
    return RawScene(LabelledPoints(np.array(coord, np.float32), color, normal, truth))


def _rows(file: Path, n: int | None) -> NDArray[Any]:
    """A finite array [n, 3]."""
    array = load_array(file)
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "fiu" or len(array) == 0:
        fail(file, f"holds {array.dtype} of shape {array.shape}; expected [M, 3]")
    if n is not None and len(array) != n:
        fail(file, f"has {len(array)} rows for {n} points")
    check_finite(file, values=array)
    return array
