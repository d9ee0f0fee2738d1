"""ScanNet's exported frames: pose/*.txt (camera to world, metres) and intrinsic/intrinsic_{color,depth}.txt.

Frames where tracking was lost carry -inf in their pose; they are dropped and counted in a warning, never kept.
Layout: ScanNet SensReader/python (export_poses, export_intrinsics).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.camera_io.picture_files import first_size
from chorus_common.camera_io.view import View, camera_set, fail, read_text, skip_damaged, world_to_camera
from chorus_common.cameras import CameraSet
from chorus_common.runtime.errors import SceneError

#: ScanNet's colour and depth pictures. Taken where neither a picture nor the scan's text file tells their size, and the
#: intrinsics agree: the principal point lies at the centre up to a twentieth of the picture.
_SIZES = {"color": (1296, 968), "depth": (640, 480)}
_CENTRED = 0.05


def is_scannet_folder(path: Path) -> bool:
    """Whether `path` is an exported scan."""
    return (path / "pose").is_dir()


def read_scannet(path: Path) -> CameraSet:
    """Read the scan at `path`; see `scannet_views`."""
    return camera_set(path / "pose", scannet_views(path))


def scannet_views(path: Path) -> list[View]:
    """The views of the scan at `path`, named by frame number and sorted by it.

    The colour camera is used where there is one, the depth camera otherwise. The picture size comes from the first
    readable picture in color/ (or depth/), else from the scan's <scan>.txt, else from ScanNet's own sizes where the
    intrinsics fit them. Raises SceneError where nothing tells it. Frames whose pose is lost or damaged are left out,
    with a warning that counts them.
    """
    kind = "color" if (path / "intrinsic" / "intrinsic_color.txt").is_file() else "depth"
    file = path / "intrinsic" / f"intrinsic_{kind}.txt"
    k = read_matrix(file)[:3, :3]
    if not np.isfinite(k).all() or k[0, 0] <= 0 or k[1, 1] <= 0:
        fail(file, "is not an intrinsic matrix")
    width, height = _picture_size(path, kind, file, k)
    return read_poses(path / "pose", k, width, height)


def read_poses(folder: Path, k: NDArray[np.float64], width: int, height: int) -> list[View]:
    """The views of the pose files in `folder`, by frame number, all with the intrinsics `k` [3, 3].

    Raises SceneError where no pose is good; others that are not are counted in a warning.
    """
    views, problems = [], []
    for pose_file in sorted(folder.glob("*.txt"), key=frame_number):
        if pose_file.name.startswith("."):
            continue
        try:
            pose = read_matrix(pose_file)
            if not np.isfinite(pose).all():
                problems.append(f"{pose_file.name}: tracking was lost")
                continue
            views.append(View(pose_file.stem, world_to_camera(pose_file.name, pose), k, width, height))
        except SceneError as error:
            problems.append(f"{pose_file.name}: {str(error).removeprefix(f'{pose_file}: ')}")
    if not views and not problems:
        fail(folder, "holds no pose files (<frame>.txt)")
    skip_damaged(folder, problems, len(views))
    return views


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


def _picture_size(path: Path, kind: str, intrinsics_file: Path, k: NDArray[np.float64]) -> tuple[int, int]:
    """Width and height of the scan's pictures; SceneError where they are not known or do not fit the intrinsics."""
    size = first_size(path / kind) or _size_in_text(path, kind)
    tolerance, known = (0.25, True) if size is not None else (_CENTRED, False)
    width, height = size or _SIZES[kind]
    if max(abs(k[0, 2] / width - 0.5), abs(k[1, 2] / height - 0.5)) <= tolerance:
        return width, height
    if known:
        fail(
            intrinsics_file,
            f"has its principal point at {k[0, 2]:.0f}, {k[1, 2]:.0f}, but pictures are {width}x{height}; "
            "scale the intrinsics to the pictures' size",
        )
    fail(
        path,
        f"the size of the {kind} pictures is unknown: there are none in {kind}/, {path.name}.txt does not tell, and "
        f"the principal point {k[0, 2]:.0f}, {k[1, 2]:.0f} does not belong to {width}x{height}; add one picture",
    )


def _size_in_text(path: Path, kind: str) -> tuple[int, int] | None:
    """Size from the text file of a scan's release, with lines such as `colorWidth = 1296`."""
    file = path / f"{path.name}.txt"
    if not file.is_file():
        return None
    found = dict(re.findall(rf"^\s*{kind}(Width|Height)\s*=\s*(\d{{1,6}})\s*$", read_text(file), re.MULTILINE))
    size = int(found.get("Width", 0)), int(found.get("Height", 0))
    return size if min(size) > 0 else None
