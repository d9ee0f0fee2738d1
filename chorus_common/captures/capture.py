"""Capture: posed colour and depth pictures of one scene, read frame by frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import CameraSet
from chorus_common.captures.pictures import read_color, read_depth
from chorus_common.captures.resample import resample_color, resample_depth

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#: Metres per count of a depth PNG: ScanNet's millimetres, and the habit of most sensors.
MILLIMETRE = 1e-3


@dataclass(frozen=True, eq=False)
class Frame:
    """What one pinhole camera saw.

    color [H, W, 3] f32 in [0, 1]; known [H, W]: whether a colour was measured there; depth [H, W] f32 metres along z, 0
    = unknown.
    """

    color: F32
    known: NDArray[np.bool_]
    depth: F32


@dataclass(frozen=True, eq=False)
class Capture:
    """V posed RGB-D frames. Colour and depth cameras share each pose and differ in intrinsics and picture size.

    Attributes:
        cameras: the colour cameras; frames are named, never numbered.
        depth_intrinsics [3, 3], depth_size (width, height): the depth camera.
        color_paths, depth_paths: a picture per view, in the order of `cameras`.
        depth_unit: metres per count of integer depth pictures.
    """

    cameras: CameraSet
    depth_intrinsics: F64
    depth_size: tuple[int, int]
    color_paths: tuple[Path, ...]
    depth_paths: tuple[Path, ...]
    depth_unit: float = MILLIMETRE

    def __len__(self) -> int:
        return len(self.cameras)

    def frame(self, view: int, intrinsics: F64, width: int, height: int) -> Frame:
        """Frame `view` as a pinhole camera with `intrinsics` [3, 3] and width x height pixels would have taken it.

        Raises SceneError naming the picture where one is missing, damaged or of another size.
        """
        picture = read_color(self.color_paths[view], self.cameras.sizes[view])
        color, known = resample_color(picture, self.cameras.intrinsics[view], intrinsics, width, height)
        depth = read_depth(self.depth_paths[view], self.depth_size, self.depth_unit)
        return Frame(color, known, resample_depth(depth, self.depth_intrinsics, intrinsics, width, height))

    def points(self, view: int, stride: int = 4) -> tuple[F32, F32]:
        """World points [K, 3] of frame `view`'s depth, every `stride`-th pixel, and their colours [K, 3]."""
        width, height = self.depth_size
        frame = self.frame(view, self.depth_intrinsics, width, height)
        y, x = np.mgrid[stride // 2 : height : stride, stride // 2 : width : stride]
        z = frame.depth[y, x]
        hit = z > 0
        y, x, z = y[hit], x[hit], z[hit].astype(np.float64)
        k = self.depth_intrinsics
        camera = np.stack([(x + 0.5 - k[0, 2]) / k[0, 0] * z, (y + 0.5 - k[1, 2]) / k[1, 1] * z, z], axis=1)
        to_world = np.linalg.inv(self.cameras.viewmats[view])
        world = camera @ to_world[:3, :3].T + to_world[:3, 3]
        return world.astype(np.float32), frame.color[y, x]
