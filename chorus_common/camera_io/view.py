"""One view while it is being read, and the step from a list of views to a CameraSet."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from chorus_common.camera_io.lens import PINHOLE, Lens
from chorus_common.cameras import CameraSet
from chorus_common.runtime.errors import SceneError

#: Camera files are text or small tables; nothing real comes near this.
MAX_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class View:
    """A pinhole view: world-to-camera [4, 4] f64 (OpenCV), intrinsics [3, 3] f64 in pixels of width x height.

    lens: how its photograph is bent, which the intrinsics leave out. file: its picture as the source names it, "" where
    it does not.
    """

    name: str
    viewmat: NDArray[np.float64]
    intrinsics: NDArray[np.float64]
    width: int
    height: int
    lens: Lens = PINHOLE
    file: str = ""


def fail(path: Path, problem: str) -> NoReturn:
    """Raise the one-line SceneError of a bad camera file."""
    raise SceneError(f"{path}: {problem}")


def read_text(path: Path) -> str:
    """A whole text file, if it is one and of a sane size."""
    try:
        if path.stat().st_size > MAX_BYTES:
            fail(path, f"is larger than {MAX_BYTES} bytes; not a camera file")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        fail(path, "no such file")
    except UnicodeDecodeError:
        fail(path, "is not text")


def read_json(path: Path) -> Any:
    """The JSON value at `path`."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        fail(path, f"not valid JSON: {error}")


class BadPose(SceneError):
    """One view whose pose is none: the others of its file may be good."""


def world_to_camera(where: str, camera_to_world: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of a rigid camera-to-world pose [4, 4]. Raises BadPose, naming `where`, for matrices that are not one.

    Single-precision poses drift by about 1e-4 from orthonormal, hence the tolerance; the inverse is the exact matrix
    inverse, so that writing and reading returns the same pose.
    """
    pose = camera_to_world
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        raise BadPose(f"pose of {where} is not a finite 4x4 matrix")
    rotation = pose[:3, :3]
    rigid = np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-2 and np.linalg.det(rotation) > 0
    if not rigid or np.abs(pose[3] - [0, 0, 0, 1]).max() > 1e-6:
        raise BadPose(f"pose of {where} is not a rotation and a translation")
    return np.asarray(np.linalg.inv(pose), np.float64)


def camera_set(path: Path, views: list[View]) -> CameraSet:
    """CameraSet of `views`, each with its own picture size."""
    if not views:
        fail(path, "holds no views")
    if len(names := {view.name for view in views}) < len(views):
        fail(path, f"holds {len(views)} views with {len(names)} different names; every view needs its own")
    return CameraSet(
        np.stack([view.viewmat for view in views]),
        np.stack([view.intrinsics for view in views]),
        np.array([view.width for view in views]),
        np.array([view.height for view in views]),
        tuple(view.name for view in views),
        np.array([view.lens.bends for view in views]),
    )


def skip_damaged(path: Path, problems: list[str], kept: int) -> None:
    """Warn that views were left out for `problems`; SceneError with the first one where nothing is left."""
    if problems and not kept:
        fail(path, problems[0])
    if problems:
        warnings.warn(f"{path}: skipped {len(problems)} of {kept + len(problems)} views: {problems[0]}", stacklevel=3)


def shown(name: str) -> str:
    """A view's name in a message: on one line, and not longer than a line."""
    return name if name.isprintable() and len(name) <= 80 else ascii(name)[:80]


def names_of_files(files: list[str]) -> list[str]:
    """A name per picture: its file name without suffix, or the whole path where such names repeat.

    Folders are separated by "/" or by "\\", which Windows programs write.
    """
    plain = [file.replace("\\", "/") for file in files]
    stems = [Path(file).name.removesuffix(Path(file).suffix) for file in plain]
    return stems if len(set(stems)) == len(stems) else plain
