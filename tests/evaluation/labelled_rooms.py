"""Toy rooms as source folders with labels and instances, and a manifest: all that learning from labels needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from chorus_common.manifest import Manifest, ManifestRow
from chorus_common.scene import GaussianScene
from chorus_common.scene_io.npy_folder import write_npy_folder
from evaluation.scenes import EvalScene
from stage2_distill.encoder import Encoder, build_encoder
from stage2_distill.encoder.checkpoints import export_encoder
from tests.evaluation.rooms import make_scene
from tests.evaluation.student import TINY


@dataclass(frozen=True)
class LabelledRooms:
    """Where everything lies."""

    root: Path
    manifest: Path
    encoder: Path


def labelled_scene(seed: int, n: int = 600) -> GaussianScene:
    """A toy room with an instance per part and opacities that all differ."""
    scene = make_scene(seed, n)
    assert scene.labels is not None
    opacities = np.random.default_rng(seed).permutation(np.linspace(0.5, 0.95, n)).astype(np.float32)
    return replace(scene, instances=scene.labels, opacities=opacities)


def tiny_encoder(seed: int = 0) -> Encoder:
    """A tiny encoder with 10 cm voxels; BatchNorm, so that drift would show."""
    torch.manual_seed(seed)
    inputs = {"features": ("coord", "color"), "grid_size": 0.1}
    return build_encoder("chorus-lite", **TINY, norm="batch", in_channels=6, inputs=inputs).eval()


def make_labelled_rooms(root: Path, *, train: int = 3, val: int = 2, n: int = 600) -> LabelledRooms:
    """Rooms train_i and val_i in two splits, and an exported tiny encoder."""
    rows = []
    for i in range(train + val):
        split, name = ("train", f"train_{i}") if i < train else ("val", f"val_{i - train}")
        path = write_npy_folder(labelled_scene(i, n), root / split / name)
        rows.append(ManifestRow("toy", name, split, "npy-folder", path, None, "scannet20", n, f"{i:064x}"))
    manifest = Manifest(root, tuple(rows)).write(root / "manifest.parquet")
    export_encoder(tiny_encoder(), root / "encoder")
    return LabelledRooms(root, manifest, root / "encoder")


def source_scene(rooms: LabelledRooms, name: str) -> EvalScene:
    """A room as the commands see it."""
    return EvalScene("toy", name, None, rooms.root / name.split("_")[0] / name, "scannet20")
