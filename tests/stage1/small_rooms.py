"""Tiny scenes on disk, with a manifest, that stage 1 does in a blink."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from chorus_common.camera_io import write_transforms_json
from chorus_common.cameras import CameraSet, look_at, pinhole
from chorus_common.manifest import Manifest, ManifestRow, path_digest
from chorus_common.scene import GaussianScene
from chorus_common.scene_io import write_npy_folder
from stage1_render_teachers.settings import CalibrationConfig, Stage1Config

#: Pictures of 64 x 48 with cells of 8: 48 cells a view.
CONFIG = Stage1Config(
    width=64,
    height=48,
    cell=8,
    batch=2,
    teachers=("embedded:dense", "embedded:masks"),
    store_depth=True,
    error_sample=64,
    calibration=CalibrationConfig(scenes=2, views=2),
)


def tiny_scene(seed: int, n: int = 400) -> GaussianScene:
    """Coloured blobs in a box of 2 m around the origin."""
    rng = np.random.default_rng(seed)
    blob = rng.integers(0, 6, n)
    centres, colours = rng.uniform(-0.7, 0.7, (6, 3)), rng.random((6, 3))
    return GaussianScene(
        means=(centres[blob] + rng.normal(0, 0.12, (n, 3))).astype(np.float32),
        quats=np.tile(np.array([1, 0, 0, 0], np.float32), (n, 1)),
        scales=rng.uniform(0.02, 0.06, (n, 3)).astype(np.float32),
        opacities=rng.uniform(0.5, 0.95, n).astype(np.float32),
        colors=np.clip(colours[blob] + rng.normal(0, 0.05, (n, 3)), 0, 1).astype(np.float32),
        labels=blob.astype(np.int32),
        name=f"tiny{seed}",
    )


def ring_of_cameras(n_views: int) -> CameraSet:
    """Views from a circle of 2.5 m radius towards the origin."""
    angles = 2 * np.pi * np.arange(n_views) / n_views
    eyes = np.stack([2.5 * np.cos(angles), 2.5 * np.sin(angles), np.full(n_views, 0.4)], axis=1)
    return CameraSet(
        np.stack([look_at(eye, np.zeros(3)) for eye in eyes]),
        np.tile(pinhole(96, 72, 60), (n_views, 1, 1)),
        96,
        72,
        tuple(f"v{i}" for i in range(n_views)),
    )


def write_rooms(root: Path, count: int, *, n_views: int = 5, n: int = 400) -> Path:
    """`count` scenes under `root`; returns the path of their manifest."""
    rows = []
    for i in range(count):
        folder = root / f"scene{i:02d}"
        scene = tiny_scene(i, n)
        write_npy_folder(scene, folder)
        cameras = root / "cameras" / folder.name / "transforms.json"
        write_transforms_json(ring_of_cameras(n_views), cameras)
        rows.append(
            ManifestRow("tiny", folder.name, "train", "npy", folder, cameras, "", len(scene), path_digest(folder))
        )
    Manifest(root, tuple(rows)).write(root / "manifest.parquet")
    return root / "manifest.parquet"


def tree_digest(root: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file under `root`."""
    return {
        file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }
