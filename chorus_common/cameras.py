"""CameraSet: the views of one scene. OpenCV convention: x right, y down, z forward; pixel centres at +0.5."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.errors import SceneError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CameraSet:
    """V pinhole cameras, each with a picture size of its own.

    Attributes:
        viewmats   [V, 4, 4] f64, world to camera.
        intrinsics [V, 3, 3] f64, in pixels of each view's own size.
        widths, heights [V] i64, pixels; one number stands for all views.
        names: V distinct names. Files are always paired by name, never by position.
        distorted [V] bool: whether the source declares a lens distortion, which the intrinsics leave out. Whoever draws
            the views anew need not care; whoever reads their photographs calls `check_undistorted`.

    >>> cameras = CameraSet(np.eye(4)[None], np.diag([500.0, 500.0, 1.0])[None], 640, 480, ("front",))
    >>> len(cameras), cameras.sizes
    (1, [(640, 480)])
    """

    viewmats: F64
    intrinsics: F64
    widths: I64 | int
    heights: I64 | int
    names: tuple[str, ...]
    distorted: NDArray[np.bool_] | None = None

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
        for key in ("widths", "heights"):
            value = np.asarray(getattr(self, key), np.int64)
            if value.shape not in ((), (v,)):
                raise SceneError(f"cameras: {key} has shape {value.shape}, expected {(v,)}")
            if (value < 1).any():
                raise SceneError(f"cameras: {key} of {value.min()} px is empty")
            object.__setattr__(self, key, np.array(np.broadcast_to(value, (v,))))
        distorted = np.zeros(v, np.bool_) if self.distorted is None else np.array(self.distorted, np.bool_)
        if distorted.shape != (v,):
            raise SceneError(f"cameras: distorted has shape {distorted.shape}, expected {(v,)}")
        object.__setattr__(self, "distorted", distorted)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(width, height) of each view in pixels."""
        return list(zip(np.asarray(self.widths).tolist(), np.asarray(self.heights).tolist()))

    @property
    def width(self) -> int:
        """Width that all views share, in pixels. Raises SceneError where they differ."""
        return self._common_size()[0]

    @property
    def height(self) -> int:
        """Height that all views share, in pixels. Raises SceneError where they differ."""
        return self._common_size()[1]

    def _common_size(self) -> tuple[int, int]:
        sizes = list(dict.fromkeys(self.sizes))
        if len(sizes) != 1:
            shown = ", ".join(f"{w}x{h}" for w, h in sizes[:3]) or "none"
            raise SceneError(
                f"cameras: one picture size is needed, the {len(self)} views have {shown}; resize them first"
            )
        return sizes[0]

    def check_undistorted(self, who: object) -> None:
        """Raise SceneError naming `who` and the first view whose photograph is bent by its lens."""
        if (bent := np.asarray(self.distorted)).any():
            first = self.names[int(np.argmax(bent))]
            raise SceneError(
                f"{who}: view {first} has lens distortion; its photograph cannot be used as it is; undistort the "
                "pictures first (colmap image_undistorter)"
            )

    def select(self, rows: NDArray[np.integer] | list[int]) -> CameraSet:
        """The cameras at `rows`, in that order."""
        index = np.asarray(rows, dtype=np.int64)
        arrays = {
            key: np.asarray(getattr(self, key))[index]
            for key in ("viewmats", "intrinsics", "widths", "heights", "distorted")
        }
        return replace(self, names=tuple(self.names[i] for i in index), **arrays)

    def resized(self, width: int, height: int) -> CameraSet:
        """The same views at one picture size; each axis is scaled by its own factor."""
        k = self.intrinsics.copy()
        k[:, 0] *= (width / np.asarray(self.widths))[:, None]
        k[:, 1] *= (height / np.asarray(self.heights))[:, None]
        return replace(self, intrinsics=k, widths=width, heights=height)

    def filled(self, width: int, height: int) -> CameraSet:
        """The same views as pictures of one size and shape, nothing stretched: one factor for both axes of a view, the
        smallest with which the old picture fills the new one, whose middle stays; what sticks out is cut off.
        """
        widths, heights = np.asarray(self.widths), np.asarray(self.heights)
        factor = np.maximum(width / widths, height / heights)  # [V]
        k = self.intrinsics.copy()
        k[:, :2] *= factor[:, None, None]
        k[:, 0, 2] += (width - factor * widths) / 2
        k[:, 1, 2] += (height - factor * heights) / 2
        return replace(self, intrinsics=k, widths=width, heights=height)

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
