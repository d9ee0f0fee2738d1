"""`read_cameras`: which reader a path needs."""

from __future__ import annotations

from pathlib import Path

from chorus_common.camera_io.colmap import colmap_folder, read_colmap
from chorus_common.camera_io.scannet import is_scannet_folder, read_scannet
from chorus_common.camera_io.transforms_json import read_transforms_json
from chorus_common.camera_io.view import fail
from chorus_common.cameras import CameraSet


def read_cameras(path: str | Path) -> CameraSet:
    """Read the cameras at `path`.

    Args: path: a transforms.json; a COLMAP model (the folder of cameras.bin/.txt and images.bin/.txt, or a folder
            with it under sparse/0 or sparse); a ScanNet scan (pose/*.txt and intrinsic/); or a folder that holds a
            transforms.json.

    Returns:
        CameraSet in OpenCV convention, pictures of one size (others rescaled where the aspect agrees).

    Raises:
        SceneError: one line that names the file and what is wrong with it.
    """
    path = Path(path)
    if not path.exists():
        fail(path, "no such file or folder")
    if path.is_file():
        if path.suffix.lower() != ".json":
            fail(path, "not a camera file; expected transforms.json, a COLMAP folder or a ScanNet folder")
        return read_transforms_json(path)
    if (path / "transforms.json").is_file():
        return read_transforms_json(path / "transforms.json")
    if (model := colmap_folder(path)) is not None:
        return read_colmap(model)
    if is_scannet_folder(path):
        return read_scannet(path)
    fail(path, "holds no cameras: neither transforms.json, nor COLMAP's cameras and images, nor ScanNet's pose folder")
