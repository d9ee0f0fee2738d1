"""Matterport3D's undistorted cameras: undistorted_camera_parameters/<house>.conf.

    color_directory undistorted_color_images
    intrinsics_matrix fx 0 cx  0 fy cy  0 0 1          for all scans up to the next such line
    scan <depth picture> <colour picture> <camera to world, 16 numbers in rows>

The camera looks along -z with y up (OpenGL), and cy counts from the bottom of the picture. Source: niessner/Matterport,
data_organization.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.camera_io.picture_files import picture_size
from chorus_common.camera_io.view import BadPose, View, fail, read_text, shown, skip_damaged, world_to_camera
from chorus_common.runtime.errors import SceneError

#: Size of the release's pictures, taken where none is there to tell.
SIZE = (1280, 1024)
_FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])
_FOLDER = "undistorted_camera_parameters"


def matterport_file(path: Path) -> Path | None:
    """The one .conf file in `path` or in the folder of that name below it, or None."""
    for folder in (path / _FOLDER, path):
        found = sorted(f for f in folder.glob("*.conf") if not f.name.startswith(".")) if folder.is_dir() else []
        if len(found) == 1:
            return found[0]
    return None


def read_matterport(path: Path) -> list[View]:
    """The views of the file at `path`, in its order, named by their colour pictures without suffix."""
    size, k = SIZE, None
    folder = path.parent.parent / "undistorted_color_images"
    views: list[View] = []
    problems: list[str] = []
    for row, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if words[0] == "color_directory" and len(words) == 2:
            folder = path.parent.parent / Path(words[1]).name
        elif words[0] == "intrinsics_matrix":
            k = _numbers(path, row, words[1:], 9).reshape(3, 3)
            if not k[0, 0] > 0 or not k[1, 1] > 0:
                fail(path, f"line {row}: is not an intrinsic matrix")
        elif words[0] == "scan":
            if k is None or len(words) != 19:
                fail(path, f"line {row}: a scan takes two pictures and 16 numbers, after an intrinsics_matrix")
            if not views:
                size = _size(folder / words[2])
            name = words[2].removesuffix(Path(words[2]).suffix)
            upright = k.copy()
            upright[1, 2] = size[1] - k[1, 2]
            try:
                pose = world_to_camera(shown(name), _numbers(path, row, words[3:], 16).reshape(4, 4) @ _FLIP_YZ)
                views.append(View(name, pose, upright, *size, file=words[2]))
            except BadPose as error:
                problems.append(str(error))
    if not views and not problems:
        fail(path, "holds no scans")
    skip_damaged(path, problems, len(views))
    return views


def _size(picture: Path) -> tuple[int, int]:
    try:
        return picture_size(picture)
    except SceneError:
        return SIZE


def _numbers(path: Path, row: int, words: list[str], count: int) -> NDArray[np.float64]:
    try:
        values = np.array([float(word) for word in words], np.float64)
    except ValueError:
        fail(path, f"line {row}: not numbers")
    if len(values) != count:
        fail(path, f"line {row}: holds {len(values)} numbers, expected {count}")
    return values
