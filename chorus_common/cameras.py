"""CameraSet: the views of one scene. OpenCV convention: x right, y down, z forward; pixel centres at +0.5."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.errors import SceneError

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CameraSet:
    """V pinhole cameras that share one picture size.

    Attributes:
        viewmats   [V, 4, 4] f64, world to camera.
        intrinsics [V, 3, 3] f64, in pixels of the picture size.
        width, height: pixels.
        names: V distinct names. Files are always paired by name, never by position.
    """

    viewmats: F64
    intrinsics: F64
    width: int
    height: int
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        v = len(self.names)
        for key, shape in (("viewmats", (v, 4, 4)), ("intrinsics", (v, 3, 3))):
            value = np.ascontiguousarray(getattr(self, key), dtype=np.float64)
            if value.shape != shape:
                raise SceneError(f"cameras: {key} has shape {value.shape}, expected {shape}")
            if not np.isfinite(value).all():
                bad = int(np.argwhere(~np.isfinite(value).reshape(v, -1).all(1))[0, 0])
                raise SceneError(f"cameras: {key} of view {self.names[bad]} is not finite; remove that view")
            object.__setattr__(self, key, value)
        if len(set(self.names)) != v:
            raise SceneError("cameras: view names are not distinct")
        if self.width < 1 or self.height < 1:
            raise SceneError(f"cameras: picture size {self.width}x{self.height} is empty")

    def __len__(self) -> int:
        return len(self.names)

    def select(self, rows: NDArray[np.integer] | list[int]) -> CameraSet:
        """The cameras at `rows`, in that order."""
        index = np.asarray(rows, dtype=np.int64)
        names = tuple(self.names[i] for i in index)
        return replace(self, viewmats=self.viewmats[index], intrinsics=self.intrinsics[index], names=names)

    def resized(self, width: int, height: int) -> CameraSet:
        """The same views at another picture size; each axis is scaled by its own factor."""
        k = self.intrinsics.copy()
        k[:, 0] *= width / self.width
        k[:, 1] *= height / self.height
        return replace(self, intrinsics=k, width=width, height=height)

    def filled(self, width: int, height: int) -> CameraSet:
        """The same views as pictures of another size and shape, nothing stretched: one factor for both axes, the
        smallest with which the old picture fills the new one, whose middle stays; what sticks out is cut off.
        """
        factor = max(width / self.width, height / self.height)
        k = self.intrinsics.copy()
        k[:, :2] *= factor
        k[:, 0, 2] += (width - factor * self.width) / 2
        k[:, 1, 2] += (height - factor * self.height) / 2
        return replace(self, intrinsics=k, width=width, height=height)

    @property
    def centers(self) -> F64:
        """Camera positions in world coordinates, [V, 3] metres."""
        return -np.einsum("vji,vj->vi", self.viewmats[:, :3, :3], self.viewmats[:, :3, 3])


def look_at(
    eye: NDArray[np.floating], target: NDArray[np.floating], up: tuple[float, float, float] = (0.0, 0.0, 1.0)
) -> F64:
    """World-to-camera [4, 4] of a camera at `eye` that looks at `target` (both [3], metres), y down in the picture."""
    eye = np.asarray(eye, dtype=np.float64)
    forward = np.asarray(target, dtype=np.float64) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, np.asarray(up, dtype=np.float64))
    if np.linalg.norm(right) < 1e-6:  # looking along `up`: any horizontal right vector will do
        right = np.cross(forward, np.array([0.0, 1.0, 0.0]))
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    view = np.eye(4)
    view[:3, :3] = rotation
    view[:3, 3] = -rotation @ eye
    return view


def pinhole(width: int, height: int, fov_x_degrees: float) -> F64:
    """Intrinsics [3, 3] of a pinhole camera with square pixels and its principal point at the picture's centre."""
    focal = width / 2 / np.tan(np.radians(fov_x_degrees) / 2)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
