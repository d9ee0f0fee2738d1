"""The same posed photographs in the layouts of several releases and tools."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from chorus_common.camera_io import write_transforms_json
from chorus_common.cameras import CameraSet

#: name -> writer(folder, cameras of one size, pictures [V, H, W, 3] u8) -> what `read_cameras` is given
Layout = Callable[[Path, CameraSet, np.ndarray], Path]


def save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def nerfstudio(folder: Path, cameras: CameraSet, pictures: np.ndarray) -> Path:
    for name, picture in zip(cameras.names, pictures):
        save(folder / "images" / f"{name}.png", picture)
    return write_transforms_json(cameras, folder / "transforms.json")


def write_colmap(folder: Path, cameras: CameraSet, files: list[str], model: str = "PINHOLE", lens: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    k = cameras.intrinsics[0]
    numbers = f"{k[0, 0]!r} {k[1, 1]!r} {k[0, 2]!r} {k[1, 2]!r} {lens}".replace("np.float64(", "").replace(")", "")
    (folder / "cameras.txt").write_text(f"1 {model} {cameras.width} {cameras.height} {numbers}\n")
    lines = []
    for i, (file, view) in enumerate(zip(files, cameras.viewmats)):
        x, y, z, w = Rotation.from_matrix(view[:3, :3]).as_quat()
        lines.append(" ".join(map(str, [i + 1, w, x, y, z, *view[:3, 3], 1, file])) + "\n\n")
    (folder / "images.txt").write_text("".join(lines))


def colmap(folder: Path, cameras: CameraSet, pictures: np.ndarray) -> Path:
    files = [f"{name}.png" for name in cameras.names]
    write_colmap(folder / "sparse" / "0", cameras, files)
    for file, picture in zip(files, pictures):
        save(folder / "images" / file, picture)
    return folder


def scannetpp(folder: Path, cameras: CameraSet, pictures: np.ndarray) -> Path:
    files = [f"DSC{i:05d}.png" for i in range(len(cameras))]
    write_colmap(folder / "dslr" / "colmap", cameras, files)
    for file, picture in zip(files, pictures):
        save(folder / "dslr" / "resized_images" / file, picture)
    return folder


def scannet(folder: Path, cameras: CameraSet, pictures: np.ndarray) -> Path:
    (folder / "pose").mkdir(parents=True)
    (folder / "intrinsic").mkdir()
    matrix = np.eye(4)
    matrix[:3, :3] = cameras.intrinsics[0]
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", matrix)
    for i, (view, picture) in enumerate(zip(cameras.viewmats, pictures)):
        np.savetxt(folder / "pose" / f"{i}.txt", np.linalg.inv(view))
        save(folder / "color" / f"{i}.png", picture)
    return folder


def matterport(folder: Path, cameras: CameraSet, pictures: np.ndarray) -> Path:
    files = [f"0a1b_i{i % 3}_{i // 3}.png" for i in range(len(cameras))]
    k = cameras.intrinsics[0]
    lines = ["dataset matterport", f"n_images {len(files)}", "depth_directory undistorted_depth_images"]
    lines += ["color_directory undistorted_color_images", ""]
    lines += [f"intrinsics_matrix {k[0, 0]} 0 {k[0, 2]}  0 {k[1, 1]} {cameras.height - k[1, 2]} 0 0 1"]
    for file, view, picture in zip(files, cameras.viewmats, pictures):
        pose = np.linalg.inv(view) @ np.diag([1, -1, -1, 1])
        lines.append(f"scan {file.replace('_i', '_d')} {file} {' '.join(map(str, pose.ravel()))}")
        save(folder / "undistorted_color_images" / file, picture)
    (folder / "undistorted_camera_parameters").mkdir()
    (folder / "undistorted_camera_parameters" / "house.conf").write_text("\n".join(lines) + "\n")
    return folder


LAYOUTS: dict[str, Layout] = {
    "nerfstudio": nerfstudio, "colmap": colmap, "scannetpp": scannetpp, "scannet": scannet, "matterport": matterport,
}  # fmt: skip
