"""Plain folders of posed RGB-D frames.

color/<name>.{jpg,png}   depth/<name>.{png,npy}
transforms.json                           poses and intrinsics as nerfstudio writes them, or
pose/<name>.txt + intrinsics.txt          camera to world (4 x 4) and one matrix (3 x 3 or 4 x 4)
intrinsics_depth.txt                      only where depth pictures have a camera of their own
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from chorus_common.camera_io.scannet import read_matrix, read_poses
from chorus_common.camera_io.transforms_json import read_transforms_json
from chorus_common.camera_io.view import camera_set
from chorus_common.cameras import CameraSet
from chorus_common.captures.capture import MILLIMETRE, Capture
from chorus_common.captures.paired import first_size, pair_frames
from chorus_common.captures.pictures import COLOR_SUFFIXES
from chorus_common.runtime.errors import SceneError


def is_plain_capture(path: Path) -> bool:
    """Whether `path` has colour and depth pictures and something that says where they were taken."""
    posed = (path / "transforms.json").is_file() or (path / "intrinsics.txt").is_file()
    return posed and (path / "color").is_dir() and (path / "depth").is_dir()


def read_plain_capture(path: Path, *, every: int = 1, depth_unit: float = MILLIMETRE) -> Capture:
    """The capture at `path`, every `every`-th of its frames."""
    if (path / "transforms.json").is_file():
        cameras = read_transforms_json(path / "transforms.json")
    else:
        cameras = _posed(path)
    depth = None
    if (path / "intrinsics_depth.txt").is_file():
        depth = read_matrix(path / "intrinsics_depth.txt")[:3, :3]
    return pair_frames(path, cameras, depth, every=every, depth_unit=depth_unit)


def _posed(path: Path) -> CameraSet:
    """Cameras from pose/*.txt and intrinsics.txt, in the order of the frame numbers; lost poses are left out."""
    file = path / "intrinsics.txt"
    intrinsics = read_matrix(file)[:3, :3]
    if not np.isfinite(intrinsics).all() or intrinsics[0, 0] <= 0 or intrinsics[1, 1] <= 0:
        raise SceneError(f"{file}: is not an intrinsic matrix")
    width, height = first_size(path / "color", COLOR_SUFFIXES)
    return camera_set(path / "pose", read_poses(path / "pose", intrinsics, width, height))
