"""ScanNet's exported frames: pose/*.txt (camera to world, metres) and intrinsic/intrinsic_{color,depth}.txt.

Frames where tracking was lost carry -inf in their pose; they are dropped and counted in a warning, never kept.
Layout: ScanNet SensReader/python (export_poses, export_intrinsics).
"""

from __future__ import annotations

import re
import struct
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.camera_io.view import View, camera_set, fail, read_text, world_to_camera
from chorus_common.cameras import CameraSet

#: ScanNet's colour and depth pictures, used where neither a picture nor a text file tells their size.
_SIZES = {"color": (1296, 968), "depth": (640, 480)}


def is_scannet_folder(path: Path) -> bool:
    """Whether `path` is an exported scan."""
    return (path / "pose").is_dir()


def read_scannet(path: Path) -> CameraSet:
    """Read the scan at `path`; views are named by frame number and sorted by it.

    The colour camera is used where there is one, the depth camera otherwise. The picture size comes from the first
    picture in color/ (or depth/), else from ScanNet's own sizes.
    """
    kind = "color" if (path / "intrinsic" / "intrinsic_color.txt").is_file() else "depth"
    file = path / "intrinsic" / f"intrinsic_{kind}.txt"
    k = read_matrix(file)[:3, :3]
    if not np.isfinite(k).all() or k[0, 0] <= 0 or k[1, 1] <= 0:
        fail(file, "is not an intrinsic matrix")
    width, height = _picture_size(path / kind) or _SIZES[kind]
    if max(abs(k[0, 2] / width - 0.5), abs(k[1, 2] / height - 0.5)) > 0.25:
        fail(
            file,
            f"has its principal point at {k[0, 2]:.0f}, {k[1, 2]:.0f}, but pictures are {width}x{height}; "
            "scale the intrinsics to the pictures' size",
        )
    views, lost = [], 0
    for pose_file in sorted((path / "pose").glob("*.txt"), key=frame_number):
        pose = read_matrix(pose_file)
        if not np.isfinite(pose).all():
            lost += 1
            continue
        view = world_to_camera(pose_file, "the frame", pose)
        views.append(View(pose_file.stem, view, k, width, height))
    if not views:
        fail(path / "pose", f"holds no frame with a finite pose ({lost} lost)")
    if lost:
        warnings.warn(f"{path}: skipped {lost} of {lost + len(views)} frames whose pose is not finite", stacklevel=2)
    return camera_set(path / "pose", views)


def frame_number(file: Path) -> tuple[int, str]:
    """Sort key of a frame's file: the number at the end of its name, then the name."""
    digits = re.search(r"(\d+)$", file.stem)
    return (int(digits.group(1)) if digits else -1, file.stem)


def read_matrix(path: Path) -> NDArray[np.float64]:
    """A 3x3 or 4x4 matrix of numbers in text, as 4x4; SceneError where the file is none."""
    words = read_text(path).split()
    try:
        values = np.array([float(word) for word in words], dtype=np.float64)
    except ValueError:
        fail(path, "is not a matrix of numbers")
    if values.size not in (9, 16):
        fail(path, f"holds {values.size} numbers, expected a 4x4 matrix")
    side = 3 if values.size == 9 else 4
    matrix = np.eye(4)
    matrix[:side, :side] = values.reshape(side, side)
    return matrix


def _picture_size(folder: Path) -> tuple[int, int] | None:
    """Width and height from the header of the first .png or .jpg in `folder`; None where there is none."""
    for file in sorted(folder.glob("*.png"))[:1] or sorted(folder.glob("*.jpg"))[:1]:
        with open(file, "rb") as handle:
            head = handle.read(1 << 16)
        if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) >= 24:
            width, height = struct.unpack(">II", head[16:24])
            return (width, height) if width and height else None
        return _jpeg_size(head)
    return None


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    """Size from a JPEG's start-of-frame marker (ITU T.81, B.2.2)."""
    at = 2
    while head[:2] == b"\xff\xd8" and at + 9 <= len(head) and head[at] == 0xFF:
        marker, length = head[at + 1], int.from_bytes(head[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", head[at + 5 : at + 9])
            return (width, height) if width and height else None
        at += 2 + length
    return None
