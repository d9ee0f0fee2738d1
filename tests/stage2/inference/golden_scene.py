"""The golden scene of the released Chorus (tests/data/chorus_*_small.npz): as a scene, a folder, and its outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from chorus_common.scene import GaussianScene

DATA = Path(__file__).parents[2] / "data"
MODES = ("3dgs", "pts")


def weights(mode: str) -> Path:
    return DATA / f"chorus_{mode}_small.pth"


def golden(mode: str) -> Any:
    return np.load(DATA / f"chorus_{mode}_small.npz")


def golden_scene(mode: str) -> GaussianScene:
    data = golden(mode)
    return GaussianScene(
        means=data["coord"],
        quats=data["quat"],
        scales=data["scale"],
        opacities=data["opacity"][:, 0],
        colors=(data["color"] / np.float32(255)).astype(np.float32),
        normals=data["normal"],
        name="golden",
    )


def write_folder(mode: str, path: Path, rows: np.ndarray | slice = slice(None)) -> Path:
    """The scene as a folder of .npy files, rows chosen."""
    data = golden(mode)
    path.mkdir(parents=True)
    for name in ("coord", "color", "opacity", "quat", "scale", "normal"):
        np.save(path / f"{name}.npy", data[name][rows])
    return path


def order_within_cells_kept(mode: str, seed: int = 0) -> np.ndarray:
    """A permutation of the rows that leaves the order of rows of one 2 cm voxel as it is: which member of a voxel is
    which follows row order, here and in the golden files.
    """
    coord = golden(mode)["coord"].astype(np.float64)
    low, high = coord.min(0), coord.max(0)
    cell = np.floor((coord - [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]]) / 0.02)
    voxel = np.unique(cell, axis=0, return_inverse=True)[1].ravel()
    order = np.random.default_rng(seed).permutation(len(coord))
    place = np.argsort(voxel[order], kind="stable")  # per voxel, the places its rows were put
    order[place] = np.argsort(voxel, kind="stable")  # filled with its rows in their own order
    return order
