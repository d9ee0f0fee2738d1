"""COLMAP sparse models: cameras and images, .bin or .txt. Points are not read.

Poses are stored world to camera in OpenCV axes as a quaternion (w, x, y, z) and a translation: our own convention.
COLMAP's principal point has pixel centres at +0.5, as ours. Layouts and camera models: COLMAP docs "Output Format",
src/colmap/sensor/models.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.camera_io.lens import MODELS, PINHOLE, Lens, colmap_lens
from chorus_common.camera_io.view import (
    MAX_BYTES,
    View,
    camera_set,
    fail,
    read_text,
    shown,
    skip_damaged,
)
from chorus_common.cameras import CameraSet
from chorus_common.scene import quats_to_rotations

#: Model ids of binary files -> names of `lens.MODELS`.
_MODELS = dict(enumerate(MODELS))

#: Where a model lies under the folder that a user names: COLMAP's own places, those of its undistorter (also as
#: MegaDepth and BlendedMVS keep them), nerfstudio's, and ScanNet++'s.
_PLACES = (
    "", "sparse/0", "sparse", "dense/0/sparse", "dense/sparse/0", "dense/sparse", "dense0/sparse", "colmap/sparse/0",
    "colmap/sparse", "colmap/dense/0/sparse", "colmap/dense/sparse", "colmap", "undistorted/sparse/0",
    "undistorted/sparse", "0", "dslr/colmap",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Camera:
    """intrinsics [3, 3] in pixels of width x height; problem: why no view can use it, "" where it is good."""

    intrinsics: NDArray[np.float64]
    width: int
    height: int
    lens: Lens = PINHOLE
    problem: str = ""


#: Cameras by their id in the file. One that no view uses may be of any kind.
Cameras = dict[int, _Camera]


def colmap_folder(path: Path) -> Path | None:
    """The model's folder at or under `path` (the usual places are looked into), or None."""
    for folder in (path / place for place in _PLACES):
        for suffix in (".bin", ".txt"):
            if (folder / f"cameras{suffix}").is_file() and (folder / f"images{suffix}").is_file():
                return folder
    return None


def read_colmap(folder: Path) -> CameraSet:
    """Read the model in `folder`; views are sorted by picture name (COLMAP's own order depends on its threads)."""
    return camera_set(folder, colmap_views(folder))


def colmap_views(folder: Path) -> list[View]:
    """The views of the model in `folder`, sorted by picture name."""
    if (folder / "cameras.bin").is_file() and (folder / "images.bin").is_file():
        views = _images_bin(folder / "images.bin", _cameras_bin(folder / "cameras.bin"))
    else:
        views = _images_txt(folder / "images.txt", _cameras_txt(folder / "cameras.txt"))
    return sorted(views, key=lambda view: view.name)


def _camera(camera: int, model: str, params: list[float], width: int, height: int) -> _Camera:
    """The pinhole part of a camera, and its lens. Of a fisheye the pinhole has the same focal lengths and sees the
    middle of the picture.
    """
    focals = MODELS[model].focals
    if not np.isfinite(params).all() or min(params[:focals]) <= 0 or not (1 <= width <= 10**6 and 1 <= height <= 10**6):
        return _unusable(f"camera {camera} has a size or parameters that no camera has")
    fx, fy = params[0], params[focals - 1]
    cx, cy = params[focals], params[focals + 1]
    return _Camera(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), width, height, colmap_lens(model, params))


def _unusable(problem: str) -> _Camera:
    return _Camera(np.eye(3), 1, 1, problem=problem)


class _Views:
    """Views gathered one by one; those whose pose is damaged are counted and left out."""

    def __init__(self, path: Path, cameras: Cameras) -> None:
        self.path, self.cameras = path, cameras
        self.good: list[View] = []
        self.problems: list[str] = []

    def add(self, name: str, camera: int, pose: list[float]) -> None:
        """One image: its pose as quaternion (w, x, y, z) and translation."""
        who = shown(name)
        if camera not in self.cameras:
            fail(self.path, f"{who} uses camera {camera}, which the cameras file lacks")
        lens = self.cameras[camera]
        if lens.problem:
            fail(self.path, f"{who} uses a camera that cannot be used: {lens.problem}")
        quat, translation = np.array(pose[:4]), np.array(pose[4:])
        norm = float(np.linalg.norm(quat)) if np.abs(quat).max() < 2 else np.inf  # the square of 1e200 overflows
        if not np.isfinite(pose).all() or not 0.5 < norm < 2:
            self.problems.append(f"pose of {who} is not a rotation and a translation")
            return
        view = np.eye(4)
        view[:3, :3] = quats_to_rotations(quat / norm)
        view[:3, 3] = translation
        self.good.append(View(name, view, lens.intrinsics, lens.width, lens.height, lens.lens, file=name))

    def done(self) -> list[View]:
        """The good views. Raises SceneError where there is none."""
        skip_damaged(self.path, self.problems, len(self.good))
        return self.good


# ---- text ------------------------------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for row, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.lstrip().startswith("#"):
            yield row, line.strip()


def _cameras_txt(path: Path) -> Cameras:
    cameras: Cameras = {}
    for row, line in _lines(path):
        if not line:
            continue
        words = line.split()
        if len(words) < 4:
            fail(path, f"line {row}: a camera takes an id, a model, a size and parameters")
        try:
            camera, width, height = int(words[0]), int(words[2]), int(words[3])
            params = [float(word) for word in words[4:]]
        except ValueError:
            fail(path, f"line {row}: not numbers")
        if words[1] not in MODELS:
            cameras[camera] = _unusable(f"line {row}: unknown camera model {words[1]!r}")
            continue
        if len(params) != MODELS[words[1]].count:
            fail(path, f"line {row}: {words[1]} takes {MODELS[words[1]].count} parameters, found {len(params)}")
        cameras[camera] = _camera(camera, words[1], params, width, height)
    return cameras


def _images_txt(path: Path, cameras: Cameras) -> list[View]:
    views = _Views(path, cameras)
    rows = list(_lines(path))
    while rows and not rows[-1][1]:
        rows.pop()
    # two lines per image, of which the second (2D points) may be empty: blank lines count
    start = next((i for i, (_, line) in enumerate(rows) if line), 0)
    for row, line in rows[start::2]:
        words = line.split(maxsplit=9)
        if len(words) != 10:
            fail(
                path,
                f"line {row}: an image takes id, quaternion, translation, camera and name; found {len(words)} fields",
            )
        try:
            pose, camera = [float(word) for word in words[1:8]], int(words[8])
        except ValueError:
            fail(path, f"line {row}: not numbers")
        views.add(words[9], camera, pose)
    return views.done()


# ---- binary ----------------------------------------------------------------------------------------------------------


class _Bytes:
    """A little-endian cursor over a file's bytes which refuses to run past their end."""

    def __init__(self, path: Path) -> None:
        if path.stat().st_size > MAX_BYTES:
            fail(path, f"is larger than {MAX_BYTES} bytes; not a COLMAP model of pictures")
        self.path, self.data, self.at = path, path.read_bytes(), 0

    def take(self, layout: str) -> tuple[Any, ...]:
        layout = "<" + layout
        size = struct.calcsize(layout)
        self.skip(size)
        return struct.unpack_from(layout, self.data, self.at - size)

    def skip(self, size: int) -> None:
        if size > len(self.data) - self.at:
            fail(self.path, f"ends early at byte {self.at}; truncated?")
        self.at += size

    def name(self) -> str:
        end = self.data.find(b"\0", self.at, self.at + 4096)
        if end < 0:
            fail(self.path, f"picture name at byte {self.at} does not end")
        name = self.data[self.at : end].decode("utf-8", "replace")
        self.at = end + 1
        return name

    def count(self, stride: int) -> int:
        count = int(self.take("Q")[0])
        if count * stride > len(self.data) - self.at:
            fail(self.path, f"declares {count} entries, more than its bytes hold; truncated?")
        return count


def _cameras_bin(path: Path) -> Cameras:
    data, cameras = _Bytes(path), {}
    for _ in range(data.count(stride=24 + 3 * 8)):
        camera, model_id, width, height = data.take("IiQQ")
        if model_id not in _MODELS:
            fail(path, f"camera {camera} has the unknown model id {model_id}")
        model = _MODELS[model_id]
        cameras[camera] = _camera(camera, model, list(data.take(f"{MODELS[model].count}d")), width, height)
    return cameras


def _images_bin(path: Path, cameras: Cameras) -> list[View]:
    data, views = _Bytes(path), _Views(path, cameras)
    for _ in range(data.count(stride=4 + 7 * 8 + 4 + 1 + 8)):
        pose = list(data.take("I7d")[1:])
        camera = int(data.take("I")[0])
        name = data.name()
        data.skip(data.count(stride=24) * 24)  # 2D points: x, y, point id
        views.add(name, camera, pose)
    return views.done()
