"""Made-up folders in the layout of SceneSplat's and the released Chorus's data: Gaussians with features beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from chorus_common.manifest import Manifest, ManifestRow, path_digest
from chorus_common.scene_io import write_npy_folder
from tests.stage1.small_rooms import tiny_scene

#: Channels of the features that a release keeps, made small.
CHANNELS = {"lang": 24, "dino": 16}


def release_features(seed: int, stem: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(values [K, C] f16 of unit length, rows [K] i32 in no order) of a scene of `n` Gaussians; they follow colours."""
    rng = np.random.default_rng([seed, len(stem)])
    scene = tiny_scene(seed, n)
    rows = rng.permutation(n)[: int(n * 0.8)].astype(np.int32)
    mix = np.random.default_rng(len(stem)).normal(size=(3, CHANNELS[stem]))
    values = np.tanh((scene.colors[rows] - 0.5) @ mix * 2) + rng.normal(0, 0.1, (len(rows), CHANNELS[stem]))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16), rows


def write_release(root: Path, count: int, *, n: int = 400, stems: tuple[str, ...] = ("dino", "lang")) -> Path:
    """`count` folders under `root`; returns the path of their manifest."""
    for i in range(count):
        folder = root / f"scan{i:02d}"
        write_npy_folder(tiny_scene(i, n), folder)
        for name in ("coord", "opacity", "scale", "quat"):  # the release keeps halves
            np.save(folder / f"{name}.npy", np.load(folder / f"{name}.npy").astype(np.float16))
        seen = np.zeros(n, np.bool_)
        for stem in stems:
            values, rows = release_features(i, stem, n)
            np.save(folder / f"{stem}_feat.npy", values)
            np.save(folder / f"{stem}_feat_index.npy", rows)
            seen[rows] = True
        np.save(folder / "valid_feat_mask.npy", seen)
    return index_release(root)


def index_release(root: Path) -> Path:
    """The manifest of the folders as they are now."""
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    rows = [
        ManifestRow("rel", f.name, "train", "npy-folder", f, None, "", len(np.load(f / "coord.npy")), path_digest(f))
        for f in folders
    ]
    return Manifest(root, tuple(rows)).write(root / "manifest.parquet")
