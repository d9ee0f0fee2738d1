"""Frames of a ScanNet .sens file as its own exporter writes them (SensReader/python: export_color_images, ...).

    color/<n>.jpg   depth/<n>.png (16 bit, millimetres)   pose/<n>.txt (camera to world)
    intrinsic/intrinsic_{color,depth}.txt, extrinsic_{color,depth}.txt

Frames whose pose was lost (-inf) are left out by the camera reader, frames without pictures here: exports of every
tenth picture are common.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from chorus_common.camera_io.scannet import read_matrix, read_scannet
from chorus_common.captures.capture import MILLIMETRE, Capture
from chorus_common.captures.paired import pair_frames
from chorus_common.runtime.errors import SceneError


def is_scannet_capture(path: Path) -> bool:
    """Whether `path` has the exporter's folders."""
    return (path / "pose").is_dir() and (path / "intrinsic").is_dir()


def read_scannet_capture(path: Path, *, every: int = 1, depth_unit: float = MILLIMETRE) -> Capture:
    """The capture at `path`, every `every`-th of its frames.

    Colour and depth must share the pose, as ScanNet's registered streams do: extrinsics other than the identity are
    refused.
    """
    for kind in ("color", "depth"):
        file = path / "intrinsic" / f"extrinsic_{kind}.txt"
        if file.is_file() and np.abs(read_matrix(file) - np.eye(4)).max() > 1e-3:
            raise SceneError(f"{file}: is not the identity; register depth to colour before you export")
    depth = read_matrix(path / "intrinsic" / "intrinsic_depth.txt")[:3, :3]
    return pair_frames(path, read_scannet(path), depth, every=every, depth_unit=depth_unit)
