"""antimatter15's .splat: 32 bytes per Gaussian, no header.

Layout (antimatter15/splat README and convert.py): position f32 x3, scale f32 x3 (linear), colour u8 x4 (r, g, b,
opacity), rotation u8 x4 (w, x, y, z as (value - 128) / 128).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from chorus_common.scene import GaussianScene
from chorus_common.scene_io.bounds import MAX_GAUSSIANS, check_count, fail, finish, scene_name

_ROW = np.dtype([("position", "<f4", 3), ("scale", "<f4", 3), ("color", "u1", 4), ("rotation", "u1", 4)])


def count_splat(path: Path) -> int:
    """Number of Gaussians, from the file's size."""
    size = path.stat().st_size
    if size % _ROW.itemsize:
        fail(path, f"{size} bytes are not a multiple of {_ROW.itemsize}; truncated, or not a .splat file")
    return size // _ROW.itemsize


def read_splat(path: Path, *, max_gaussians: int = MAX_GAUSSIANS, label_space: str = "") -> GaussianScene:
    """Read the Gaussians of `path`."""
    n = count_splat(path)
    check_count(path, n, max_gaussians)
    table = np.memmap(path, _ROW, "r", shape=(n,))
    color = table["color"].astype(np.float32) / 255.0
    return finish(
        path,
        means=np.array(table["position"], np.float32),
        quats=(table["rotation"].astype(np.float32) - 128.0) / 128.0,
        scales=np.array(table["scale"], np.float32),
        opacities=color[:, 3],
        colors=color[:, :3],
        name=scene_name(path),
        label_space=label_space,
    )
