"""Arrays of release files, checked: integers that are labels, colours that are bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.errors import SceneError
from chorus_common.scene_io.bounds import fail
from chorus_common.scene_io.npy import open_npy
from chorus_common.scene_io.point_gaussians import unit_colors


def load_array(path: Path) -> NDArray[Any]:
    """The .npy array at `path` (mapped, never pickled); SceneError where it is missing or damaged."""
    if not path.is_file():
        fail(path, "no such file")
    return open_npy(path)


def ids_1d(path: Path, n: int) -> NDArray[np.int64]:
    """The integers at `path` as [n]: one per point, or the first of several columns (S3DIS has one, ScanNet++ more)."""
    array = load_array(path)
    if array.ndim == 2 and array.shape[1] >= 1:
        array = array[:, 0]
    if array.shape != (n,):
        fail(path, f"has shape {array.shape} for {n} points")
    if array.dtype.kind not in "iu":
        if array.dtype.kind != "f" or not np.array_equal(np.nan_to_num(array), np.rint(np.nan_to_num(array))):
            fail(path, f"has type {array.dtype}, expected integers")
        if not np.isfinite(array).all():
            fail(path, f"is not finite at row {int(np.argmin(np.isfinite(array)))}")
    return np.array(array).astype(np.int64)


def instance_ids(path: Path, ids: NDArray[np.int64], none: int = -1) -> NDArray[np.int32]:
    """Instance ids as i32 with -1 = none (`none` and all negative ids)."""
    ids = np.where((ids == none) | (ids < 0), -1, ids)
    if ids.max(initial=-1) >= 2**31:
        fail(path, "instance ids do not fit 32 bits")
    return ids.astype(np.int32)


def rgb_u8(path: Path, colors: NDArray[Any]) -> NDArray[np.uint8]:
    """Colours [N, 3] as bytes: integers as they are, floats of 0 to 1 or 0 to 255 rounded."""
    if colors.dtype == np.uint8:
        return np.array(colors)
    try:
        return np.rint(unit_colors(colors) * np.float32(255)).astype(np.uint8)
    except SceneError as error:
        fail(path, str(error))


def unit_or_up(normals: NDArray[np.floating]) -> NDArray[np.float32]:
    """Normals [N, 3] as unit vectors; rows without a direction (vertices of no face) point up."""
    n = np.asarray(normals, np.float64)
    length = np.linalg.norm(n, axis=1, keepdims=True)
    return np.where(length > 1e-12, n / np.maximum(length, 1e-12), np.array([0.0, 0.0, 1.0])).astype(np.float32)
