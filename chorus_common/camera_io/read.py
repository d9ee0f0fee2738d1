"""`read_cameras`: which reader a path needs."""

from __future__ import annotations

from pathlib import Path

from chorus_common.camera_io.colmap import colmap_folder, read_colmap
from chorus_common.camera_io.inria_cameras import read_inria_cameras
from chorus_common.camera_io.scannet import is_scannet_folder, read_scannet
from chorus_common.camera_io.transforms_json import read_transforms_json
from chorus_common.camera_io.view import fail, read_json
from chorus_common.cameras import CameraSet


def read_cameras(path: str | Path) -> CameraSet:
    """Read the cameras at `path`.

    Args: path: a transforms.json, or the cameras.json of 3DGS training; a COLMAP model (the folder of cameras.bin/.txt
            and images.bin/.txt, or a folder with it in one of the usual places, such as sparse/0 or dense/0/sparse); a
            ScanNet scan (pose/*.txt and intrinsic/); or a folder that holds a transforms.json or a cameras.json.

    Returns:
        CameraSet in OpenCV convention, each view with its own picture size. Of a lens with distortion the pinhole part
        is taken and the view marked (`distorted`). Views with a damaged pose are left out, with a warning.

    Raises:
        SceneError: one line that names the file and what is wrong with it.
    """
    path = Path(path)
    if not path.exists():
        fail(path, "no such file or folder")
    if path.is_file():
        if path.suffix.lower() != ".json":
            fail(path, "not a camera file; expected transforms.json, cameras.json, a COLMAP folder or a ScanNet folder")
        return _read_json_cameras(path)
    if (path / "transforms.json").is_file():
        return _read_json_cameras(path / "transforms.json")
    if (model := colmap_folder(path)) is not None:
        return read_colmap(model)
    if is_scannet_folder(path):
        return read_scannet(path)
    if (path / "cameras.json").is_file():
        return _read_json_cameras(path / "cameras.json")
    fail(
        path,
        "holds no cameras: neither transforms.json or cameras.json, nor COLMAP's cameras and images, nor ScanNet's "
        "pose folder",
    )


def _read_json_cameras(path: Path) -> CameraSet:
    """3DGS training writes a list, nerfstudio and Instant-NGP an object with frames; the names do not tell."""
    data = read_json(path)
    if isinstance(data, list) and data and isinstance(data[0], dict) and "rotation" in data[0]:
        return read_inria_cameras(path, data)
    return read_transforms_json(path, data)
