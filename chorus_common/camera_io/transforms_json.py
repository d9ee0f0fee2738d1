"""transforms.json of nerfstudio / Instant-NGP, read and written.

`transform_matrix` is camera to world in OpenGL axes (x right, y up, z backward); ours is world to camera in OpenCV
axes (x right, y down, z forward), so the y and z columns change sign before the inverse. The world frame is left as
it is. Source: nerfstudio docs "Data conventions", Instant-NGP docs/nerf_dataset_tips.md.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.camera_io.lens import Lens, named_lens
from chorus_common.camera_io.view import (
    BadPose,
    View,
    camera_set,
    fail,
    names_of_files,
    read_json,
    shown,
    skip_damaged,
    world_to_camera,
)
from chorus_common.cameras import CameraSet
from chorus_common.runtime.atomic import write_text_atomically

#: OpenGL camera axes -> OpenCV camera axes, applied from the right to a camera-to-world matrix.
_FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])

_DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "sx1", "sy1")
#: Order of nerfstudio's `distortion_params`.
_LISTED = ("k1", "k2", "k3", "k4", "p1", "p2")
#: Models that are pinholes where their distortion is zero.
_PINHOLES = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "RADIAL", "SIMPLE_RADIAL", "FULL_OPENCV", "PERSPECTIVE")
_FISHEYES = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE")


def read_transforms_json(path: Path, data: Any = None) -> CameraSet:
    """Read the file at `path`; `data`: its content, where somebody has parsed it already."""
    return camera_set(path, transforms_views(path, data))


def transforms_views(path: Path, data: Any = None) -> list[View]:
    """The views of the file at `path`, or of `data`, its content.

    Views keep the file's order and are named by their `file_path` without folder or suffix. Frames whose pose is
    damaged are left out, with a warning that counts them.
    """
    data = read_json(path) if data is None else data
    frames = data.get("frames") if isinstance(data, dict) else None
    if not isinstance(frames, list) or not frames:
        fail(path, "has no frames")
    views, problems = [], []
    files = _files(path, frames)
    for frame, name, file in zip(frames, names_of_files(files), files):
        try:
            views.append(_view(path, data, frame, name, file))
        except BadPose as error:
            problems.append(str(error))
    skip_damaged(path, problems, len(views))
    return views


def write_transforms_json(cameras: CameraSet, path: str | Path, *, image_pattern: str = "images/{name}.png") -> Path:
    """Write `cameras` as transforms.json with per-frame intrinsics; `image_pattern` gives each frame's `file_path`."""
    path = Path(path)
    frames = []
    for name, view, k, (width, height) in zip(cameras.names, cameras.viewmats, cameras.intrinsics, cameras.sizes):
        frames.append(
            {
                "file_path": image_pattern.format(name=name),
                "fl_x": k[0, 0], "fl_y": k[1, 1], "cx": k[0, 2], "cy": k[1, 2], "w": width, "h": height,
                "transform_matrix": (np.linalg.inv(view) @ _FLIP_YZ).tolist(),
            }
        )  # fmt: skip
    data = {"camera_model": "OPENCV", "frames": frames}
    write_text_atomically(path, json.dumps(data, indent=1) + "\n")
    return path


def _files(path: Path, frames: list[Any]) -> list[str]:
    """Pictures of the frames, or their numbers where a frame names none."""
    files = []
    for row, frame in enumerate(frames):
        if not isinstance(frame, dict):
            fail(path, f"frame {row} is not an object")
        file = frame.get("file_path", f"{row:06d}")
        if not isinstance(file, str):
            fail(path, f"file_path of frame {row} is not a string")
        files.append(file)
    return files


def _view(path: Path, data: dict[str, Any], frame: dict[str, Any], name: str, file: str) -> View:
    where = f"frame {shown(name)}"

    def number(*keys: str) -> float | None:
        for source in (frame, data):
            for key in keys:
                value = source.get(key)
                if value is not None:
                    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
                    if not plain or not abs(value) < 1e18:  # also false for NaN; integers may be too long for a float
                        fail(path, f"{key} of {where} is not a number of sane size")
                    return float(value)
        return None

    model = frame.get("camera_model", data.get("camera_model", "PINHOLE"))
    if not isinstance(model, str) or model not in (*_PINHOLES, *_FISHEYES):
        fail(path, f"{where} is no pinhole (camera_model {model!r}); undistort the pictures first")
    parameters = frame.get("distortion_params", data.get("distortion_params")) or ()
    if not isinstance(parameters, (list, tuple)):
        fail(path, f"distortion_params of {where} is not a list")
    for value in parameters:
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < 1e18:
            fail(path, f"distortion_params of {where} holds {value!r}, which is not a number of sane size")
    values = dict(zip(_LISTED, map(float, parameters)))
    values |= {key: own for key in _DISTORTION if (own := number(key)) is not None}
    fisheye = model in _FISHEYES or bool(frame.get("is_fisheye", data.get("is_fisheye")))
    lens = _lens(values, fisheye=fisheye, rational=model == "FULL_OPENCV")
    width, height = number("w"), number("h")
    cx, cy = number("cx"), number("cy")
    if width is None and cx is not None:
        width = 2 * cx  # Instant-NGP files may give the principal point alone
    if height is None and cy is not None:
        height = 2 * cy
    if width is None or height is None or not (1 <= width <= 1e6 and 1 <= height <= 1e6):
        fail(path, f"{where} has no picture size; add w and h")
    angle_x, angle_y = number("camera_angle_x"), number("camera_angle_y")
    fx = number("fl_x") or (_focal(path, where, width, angle_x) if angle_x else None)
    fy = number("fl_y") or (_focal(path, where, height, angle_y) if angle_y else fx)
    if fx is None:
        fx = fy
    if fx is None or fy is None or fx <= 0 or fy <= 0:
        fail(path, f"{where} has no focal length; add fl_x or camera_angle_x")
    cx = width / 2 if cx is None else cx
    cy = height / 2 if cy is None else cy
    k = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return View(name, _viewmat(where, frame.get("transform_matrix")), k, round(width), round(height), lens, file)


def _lens(values: dict[str, float], *, fisheye: bool, rational: bool) -> Lens:
    """k4 to k6 are those of OpenCV's denominator in its full model, and k4 is a fourth power elsewhere."""
    named = {"s1": values.get("sx1", 0.0), "s2": values.get("sy1", 0.0)} | values
    if rational or values.get("k5") or values.get("k6"):
        named |= {"k4": 0.0, "d1": values.get("k4", 0.0), "d2": values.get("k5", 0.0), "d3": values.get("k6", 0.0)}
    return named_lens(named, fisheye=fisheye)


def _focal(path: Path, where: str, size: float, angle: float) -> float:
    if not 0 < angle < math.pi:
        fail(path, f"{where} has a field of view of {angle:g} rad, expected between 0 and pi")
    return size / 2 / math.tan(angle / 2)


def _viewmat(where: str, matrix: Any) -> NDArray[np.float64]:
    try:
        pose = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise BadPose(f"transform_matrix of {where} is not a 4x4 matrix") from None
    if pose.shape == (3, 4):
        pose = np.vstack([pose, [0.0, 0.0, 0.0, 1.0]])
    return world_to_camera(where, pose @ _FLIP_YZ if pose.shape == (4, 4) else pose)
