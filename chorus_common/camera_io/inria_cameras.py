"""cameras.json, which 3DGS training leaves beside point_cloud/: one object per training picture.

Layout (graphdeco-inria/gaussian-splatting utils/camera_utils.py, camera_to_JSON): id, img_name, width, height,
position [3] (the camera's centre), rotation [3, 3] (camera to world, OpenCV axes), fx, fy. The principal point is the
picture's centre.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from chorus_common.camera_io.view import (
    BadPose,
    View,
    camera_set,
    fail,
    names_of_files,
    shown,
    skip_damaged,
    world_to_camera,
)
from chorus_common.cameras import CameraSet


def read_inria_cameras(path: Path, entries: list[Any]) -> CameraSet:
    """The cameras in the parsed content of `path`; see `inria_views`."""
    return camera_set(path, inria_views(path, entries))


def inria_views(path: Path, entries: list[Any]) -> list[View]:
    """The views in the parsed content of `path`, in its order; entries with a damaged pose are left out and counted.

    Raises SceneError where an entry is no camera.
    """
    files, views, problems = [], [], []
    for row, entry in enumerate(entries):
        if not isinstance(entry, dict):
            fail(path, f"camera {row} is not an object")
        name = entry.get("img_name", entry.get("id", row))
        if not isinstance(name, (str, int)):
            fail(path, f"img_name of camera {row} is not a name")
        files.append(str(name))
    for entry, name, file in zip(entries, names_of_files(files), files):
        width, height = (_number(path, name, entry, key, 1e6) for key in ("width", "height"))
        fx, fy = (_number(path, name, entry, key, 1e9) for key in ("fx", "fy"))
        if width < 1 or height < 1:
            fail(path, f"camera {shown(name)} has no picture size")
        k = np.array([[fx, 0, width / 2], [0, fy, height / 2], [0, 0, 1]])
        try:
            views.append(View(name, _viewmat(name, entry), k, round(width), round(height), file=file))
        except BadPose as error:
            problems.append(str(error))
    skip_damaged(path, problems, len(views))
    return views


def _number(path: Path, name: str, entry: dict[str, Any], key: str, top: float) -> float:
    value = entry.get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= top:
        fail(path, f"{key} of camera {shown(name)} is not a positive number")
    return float(value)


def _viewmat(name: str, entry: dict[str, Any]) -> np.ndarray:
    pose = np.eye(4)
    try:
        rotation, position = np.array(entry["rotation"], np.float64), np.array(entry["position"], np.float64)
        pose[:3, :3], pose[:3, 3] = rotation.reshape(3, 3), position.reshape(3)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise BadPose(f"camera {shown(name)} has no rotation [3, 3] and position [3]") from None
    return world_to_camera(f"camera {shown(name)}", pose)
