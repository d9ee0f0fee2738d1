"""From cameras and folders of pictures to a Capture: paired by name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.camera_io.picture_files import find_pictures
from chorus_common.cameras import CameraSet
from chorus_common.captures.capture import Capture
from chorus_common.captures.pictures import COLOR_SUFFIXES, DEPTH_SUFFIXES, size_of
from chorus_common.runtime.errors import SceneError


def pair_frames(
    path: Path, cameras: CameraSet, depth_intrinsics: NDArray[np.float64] | None, *, every: int, depth_unit: float
) -> Capture:
    """The views of `cameras` that have a picture in path/color and path/depth, every `every`-th of them.

    Intrinsics follow the pictures' real size. depth_intrinsics None: depth was registered to colour, and its camera
    is the colour camera at the depth pictures' size.

    Raises SceneError where no view has both pictures.
    """
    if every < 1 or not depth_unit > 0:
        raise SceneError(f"{path}: every must be at least 1 and the depth unit positive, got {every} and {depth_unit}")
    color, depth = find_pictures(path / "color", COLOR_SUFFIXES), find_pictures(path / "depth", DEPTH_SUFFIXES)
    rows = [i for i, name in enumerate(cameras.names) if name in color and name in depth]
    if not rows:
        raise SceneError(
            f"{path}: no posed frame has a picture in color/ and in depth/ ({len(cameras)} poses, {len(color)} colour "
            f"and {len(depth)} depth pictures); files are paired by name"
        )
    if len(rows) < len(cameras):
        warnings.warn(
            f"{path}: {len(cameras) - len(rows)} of {len(cameras)} posed frames have no pictures", stacklevel=2
        )
    kept = _at_size_of_pictures(cameras.select(rows[::every]), color)
    kept.check_undistorted(path)
    depth_size = size_of(depth[kept.names[0]])
    if depth_intrinsics is None:
        depth_intrinsics = kept.resized(*depth_size).intrinsics[0]
    _check_principal_point(path / "color", kept.intrinsics[0], kept.sizes[0])
    _check_principal_point(path / "depth", depth_intrinsics, depth_size)
    return Capture(
        kept,
        np.asarray(depth_intrinsics, dtype=np.float64),
        depth_size,
        tuple(color[name] for name in kept.names),
        tuple(depth[name] for name in kept.names),
        depth_unit,
    )


def _at_size_of_pictures(cameras: CameraSet, color: Mapping[str, Path]) -> CameraSet:
    """`cameras` with intrinsics that fit the pictures; of views that share a size only the first picture is opened."""
    real: dict[tuple[int, int], tuple[int, int]] = {}
    for name, size in zip(cameras.names, cameras.sizes):
        if size not in real:
            real[size] = size_of(color[name])
    scale = np.array([np.divide(real[size], size) for size in cameras.sizes])  # [V, 2]
    k = cameras.intrinsics.copy()
    k[:, :2] *= scale[:, :, None]
    widths, heights = np.array([real[size] for size in cameras.sizes]).T
    return replace(cameras, intrinsics=k, widths=widths, heights=heights)


def _check_principal_point(folder: Path, intrinsics: NDArray[np.float64], size: tuple[int, int]) -> None:
    """Refuse intrinsics of pictures of another size: exports are often shrunk and keep the original's matrix."""
    x, y = intrinsics[0, 2] / size[0], intrinsics[1, 2] / size[1]
    if not (np.isfinite([x, y]).all() and 0.25 < x < 0.75 and 0.25 < y < 0.75):
        raise SceneError(
            f"{folder}: the principal point ({intrinsics[0, 2]:.0f}, {intrinsics[1, 2]:.0f}) is far from the centre of "
            f"{size[0]}x{size[1]} pictures; scale the intrinsics to the pictures' size"
        )


def first_size(folder: Path, suffixes: tuple[str, ...]) -> tuple[int, int]:
    """Width and height of the first picture in `folder`."""
    pictures = find_pictures(folder, suffixes)
    if not pictures:
        raise SceneError(f"{folder}: holds no pictures ({', '.join(suffixes)})")
    return size_of(next(iter(pictures.values())))
