"""`read_cameras`: which reader a path needs."""

from __future__ import annotations

from pathlib import Path

from chorus_common.camera_io.colmap import colmap_folder, colmap_views
from chorus_common.camera_io.inria_cameras import inria_views
from chorus_common.camera_io.matterport import matterport_file, read_matterport
from chorus_common.camera_io.scannet import is_scannet_folder, scannet_views
from chorus_common.camera_io.transforms_json import transforms_views
from chorus_common.camera_io.view import View, camera_set, fail, read_json
from chorus_common.cameras import CameraSet


def read_cameras(path: str | Path) -> CameraSet:
    """Read the cameras at `path`.

    Args: path: a transforms.json, or the cameras.json of 3DGS training; a COLMAP model (the folder of cameras.bin/.txt
            and images.bin/.txt, or a folder with it in one of the usual places, such as sparse/0 or dense/0/sparse); a
            ScanNet scan (pose/*.txt and intrinsic/); a folder that holds a transforms.json or a cameras.json; the .conf
            of Matterport3D's undistorted cameras, or its folder.

    Returns:
        CameraSet in OpenCV convention, each view with its own picture size. Of a lens with distortion the pinhole part
        is taken and the view marked (`distorted`); of a fisheye, the pinhole of the same focal lengths. Views with a
        damaged pose are left out, with a warning.

    Raises:
        SceneError: one line that names the file and what is wrong with it.
    """
    path = Path(path)
    return camera_set(path, read_views(path)[1])


def read_views(path: Path) -> tuple[Path, list[View]]:
    """The folder that the cameras at `path` lie in, from which their pictures are named, and the views; see
    `read_cameras`.
    """
    if not path.exists():
        fail(path, "no such file or folder")
    if path.is_file():
        if path.suffix.lower() == ".conf":
            return path.parent, read_matterport(path)
        if path.suffix.lower() != ".json":
            fail(path, "not a camera file; expected transforms.json, cameras.json, a COLMAP folder or a ScanNet folder")
        return path.parent, _json_views(path)
    for name in ("transforms.json", "transforms_train.json"):
        if (path / name).is_file():
            return path, _json_views(path / name)
    if (model := colmap_folder(path)) is not None:
        return model, colmap_views(model)
    if is_scannet_folder(path):
        return path, scannet_views(path)
    if (path / "cameras.json").is_file():
        return path, _json_views(path / "cameras.json")
    if (conf := matterport_file(path)) is not None:
        return conf.parent, read_matterport(conf)
    fail(
        path,
        "holds no cameras: neither transforms.json or cameras.json, nor COLMAP's cameras and images, nor ScanNet's "
        "pose folder",
    )


def _json_views(path: Path) -> list[View]:
    """3DGS training writes a list, nerfstudio and Instant-NGP an object with frames; the names do not tell."""
    data = read_json(path)
    if isinstance(data, list) and data and isinstance(data[0], dict) and "rotation" in data[0]:
        return inria_views(path, data)
    return transforms_views(path, data)
