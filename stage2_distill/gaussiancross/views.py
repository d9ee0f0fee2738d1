"""Pictures and teacher features of one scene's views, at the size in which they are compared with renderings.

The rendered picture is the teachers' cell grid times `pixels_per_cell`, so that a cell is a whole number of pixels.
Colour and depth come from a posed RGB-D capture, or from the pictures that stage 1 kept in the cache; teacher features
come from the cache. Views are paired by name.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import CameraSet
from chorus_common.captures import Capture, Frame, read_capture
from chorus_common.captures.resample import resample_color, resample_depth
from chorus_common.runtime.errors import CacheError, SceneError
from chorus_common.scene import GaussianScene
from stage2_distill.data.targets import ByteBudget

F16 = NDArray[np.float16]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#: How far a capture's pose may lie from the cached one: metres, and largest difference in the rotation matrix.
POSE_TOLERANCE = (0.02, 0.02)


class ViewStore(Protocol):
    """What pretraining needs of `chorus_common.cache.SceneCache`."""

    @property
    def attributes(self) -> Any: ...
    @property
    def dense_teachers(self) -> Any: ...
    def scene(self) -> GaussianScene: ...
    def cameras(self) -> CameraSet: ...
    def features(self, name: str, views: Any = None) -> F32: ...
    def rgb(self, views: Any = None) -> NDArray[np.uint8]: ...
    def depth(self, views: Any = None) -> F32: ...


@dataclass(frozen=True, eq=False)
class ViewTargets:
    """One view: viewmat [4, 4] world to camera, intrinsics [3, 3] in pixels of the rendered size, color [H, W, 3] f16,
    known [H, W], depth [H, W] f32 metres (0 unknown), teachers {name: [cells, C] f16 standardised}."""

    viewmat: F64
    intrinsics: F64
    color: F16
    known: NDArray[np.bool_]
    depth: F32
    teachers: Mapping[str, F16]

    @property
    def nbytes(self) -> int:
        arrays = [self.color, self.known, self.depth, *self.teachers.values()]
        return sum(array.nbytes for array in arrays)


class CacheFrames:
    """Frames that stage 1 kept: views/rgb and views/depth."""

    def __init__(self, store: ViewStore, cameras: CameraSet, name: str) -> None:
        a = store.attributes
        for key, setting in (("rgb", "store_rgb"), ("depth", "store_depth")):
            if getattr(a, key) is None:
                raise CacheError(
                    f"scene {name}: its cache holds no {key}; give --captures, or run stage 1 with --set {setting}=true"
                )
        self._store, self._cameras = store, cameras

    def frame(self, view: int, intrinsics: F64, width: int, height: int) -> Frame:
        picture, depth = self._store.rgb([view])[0], self._store.depth([view])[0]
        own = self._cameras.resized(picture.shape[1], picture.shape[0]).intrinsics[view]
        color, known = resample_color(picture, own, intrinsics, width, height)
        own = self._cameras.resized(depth.shape[1], depth.shape[0]).intrinsics[view]
        return Frame(color, known, resample_depth(depth, own, intrinsics, width, height))


class CaptureFrames:
    """Frames of a capture that was taken with the cache's cameras; `views` [K]: which of them it has."""

    def __init__(self, capture: Capture, cameras: CameraSet, name: str) -> None:
        place = {view: row for row, view in enumerate(capture.cameras.names)}
        self.views = [i for i, view in enumerate(cameras.names) if view in place]
        if not self.views:
            raise SceneError(
                f"scene {name}: its capture and its cache share no view names (capture: {capture.cameras.names[0]}, "
                f"...; cache: {cameras.names[0]}, ...); run stage 1 with the capture's poses"
            )
        self._capture, self._rows = capture, {i: place[cameras.names[i]] for i in self.views}
        for i, row in self._rows.items():
            apart = np.linalg.norm(capture.cameras.centers[row] - cameras.centers[i])
            turned = np.abs(capture.cameras.viewmats[row, :3, :3] - cameras.viewmats[i, :3, :3]).max()
            if apart > POSE_TOLERANCE[0] or turned > POSE_TOLERANCE[1]:
                raise SceneError(
                    f"scene {name}: view {cameras.names[i]} stands {apart:.2f} m from where the cache has it; "
                    "capture and cache are of different exports"
                )

    def frame(self, view: int, intrinsics: F64, width: int, height: int) -> Frame:
        return self._capture.frame(self._rows[view], intrinsics, width, height)


class SceneViews:
    """Views of one scene as targets, read when they are first asked for and remembered within the budget.

    Args:
        name: "dataset/scene", for messages. captures: folder with <dataset>/<scene>/ or <scene>/ per scene, or None:
            the cache's own pictures. teachers: names; those that the store lacks are left out.
    """

    def __init__(
        self,
        store: ViewStore,
        name: str,
        teachers: tuple[str, ...],
        pixels: int,
        captures: Path | None,
        budget: ByteBudget,
        *,
        depth_unit: float,
    ) -> None:
        self.name, self._store, self._budget = name, store, budget
        self.teachers = tuple(t for t in teachers if t in store.dense_teachers)
        grid = store.attributes.grid
        self.rows, self.columns = -(-grid.height // grid.cell), -(-grid.width // grid.cell)
        self.width, self.height = self.columns * pixels, self.rows * pixels
        self._cameras = store.cameras().resized(grid.width, grid.height)
        self._zoom = np.diag([pixels / grid.cell, pixels / grid.cell, 1.0])
        self._frames: CacheFrames | CaptureFrames
        if captures is None:
            self._frames = CacheFrames(store, self._cameras, name)
            self.views = list(range(len(self._cameras)))
        else:
            capture = read_capture(_capture_folder(captures, name), depth_unit=depth_unit)
            self._frames = CaptureFrames(capture, self._cameras, name)
            self.views = self._frames.views
        self._lock = threading.Lock()
        self._remembered: dict[int, ViewTargets] = {}

    def view(self, view: int) -> ViewTargets:
        """Targets of view number `view` of the cache."""
        with self._lock:
            if view in self._remembered:
                return self._remembered[view]
        targets = self._read(view)
        with self._lock:
            if view not in self._remembered and self._budget.take(targets.nbytes):
                self._remembered[view] = targets
        return targets

    def _read(self, view: int) -> ViewTargets:
        intrinsics = self._zoom @ self._cameras.intrinsics[view]
        frame = self._frames.frame(view, intrinsics, self.width, self.height)
        teachers = {}
        for name in self.teachers:
            cells = self._store.features(name, [view])[0]  # [rows, columns, C]
            teachers[name] = cells.reshape(-1, cells.shape[-1]).astype(np.float16)
        return ViewTargets(
            self._cameras.viewmats[view], intrinsics, frame.color.astype(np.float16), frame.known, frame.depth, teachers
        )


def _capture_folder(root: Path, name: str) -> Path:
    """Where the capture of scene "dataset/scene" lies under `root`."""
    candidates = [root / name, root / name.rpartition("/")[2]]
    folder = next((c for c in candidates if c.is_dir()), None)
    if folder is None:
        raise SceneError(
            f"scene {name}: neither {candidates[0]} nor {candidates[1]} exists; --captures needs one per scene"
        )
    return folder
