"""One view while it is being read, and the step from a list of views to a CameraSet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import CameraSet
from chorus_common.runtime.errors import SceneError

#: Camera files are text or small tables; nothing real comes near this.
MAX_BYTES = 1 << 30

#: Two picture sizes count as the same shape when their aspects differ by less than a pixel in a thousand.
_ASPECT_TOLERANCE = 2e-3


@dataclass(frozen=True, eq=False)
class View:
    """A pinhole view: world-to-camera [4, 4] f64 (OpenCV), intrinsics [3, 3] f64 in pixels of width x height."""

    name: str
    viewmat: NDArray[np.float64]
    intrinsics: NDArray[np.float64]
    width: int
    height: int


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


def world_to_camera(path: Path, where: str, camera_to_world: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of a rigid camera-to-world pose [4, 4]; refuses matrices that are not one.

    Single-precision poses drift by about 1e-4 from orthonormal, hence the tolerance; the inverse is the exact matrix
    inverse, so that writing and reading returns the same pose.
    """
    pose = camera_to_world
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        fail(path, f"pose of {where} is not a finite 4x4 matrix")
    rotation = pose[:3, :3]
    rigid = np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-2 and np.linalg.det(rotation) > 0
    if not rigid or np.abs(pose[3] - [0, 0, 0, 1]).max() > 1e-6:
        fail(path, f"pose of {where} is not a rotation and a translation")
    return np.asarray(np.linalg.inv(pose), np.float64)


def camera_set(path: Path, views: list[View]) -> CameraSet:
    """CameraSet of `views` at the size that most of them have (the first such); others are rescaled if the aspect
    agrees."""
    if not views:
        fail(path, "holds no views")
    if len(names := {view.name for view in views}) < len(views):
        fail(path, f"holds {len(views)} views with {len(names)} different names; every view needs its own")
    sizes = [(view.width, view.height) for view in views]
    width, height = max(dict.fromkeys(sizes), key=sizes.count)
    intrinsics = []
    for view in views:
        sx, sy = width / view.width, height / view.height
        if abs(sx / sy - 1) > _ASPECT_TOLERANCE:
            fail(
                path,
                f"view {view.name} is {view.width}x{view.height} but most are {width}x{height}, another aspect; "
                "crop the pictures to one size or split the views",
            )
        intrinsics.append(np.diag([sx, sy, 1.0]) @ view.intrinsics)
    return CameraSet(
        np.stack([view.viewmat for view in views]), np.stack(intrinsics), width, height, tuple(v.name for v in views)
    )
