"""Rooms in which every object is an instance: a floor, and coloured boxes with classes."""

from __future__ import annotations

import numpy as np

from chorus_common.labels import SCANNET20
from chorus_common.scene import GaussianScene, canonical_quats

#: class, low corner, size, colour
BOXES = (
    ("floor", (0, 0, 0), (4, 4, 0.02), (0.5, 0.5, 0.5)),
    ("chair", (0.5, 0.5, 0), (0.5, 0.5, 0.9), (0.9, 0.1, 0.1)),
    ("table", (2.5, 0.6, 0), (1.0, 0.7, 0.7), (0.1, 0.2, 0.9)),
    ("bed", (0.6, 2.2, 0), (1.2, 1.6, 0.5), (0.1, 0.8, 0.2)),
)


def room_with_instances(seed: int, per_box: int = 150) -> GaussianScene:
    """600 Gaussians: instance ids 0 to 3, floor first; a twentieth without labels."""
    rng = np.random.default_rng(seed)
    means, colors, labels, ids = [], [], [], []
    for i, (name, low, size, colour) in enumerate(BOXES):
        means.append(np.array(low) + np.array(size) * rng.random((per_box, 3)))
        colors.append(np.clip(np.array(colour) + 0.03 * rng.standard_normal((per_box, 3)), 0, 1))
        labels.append(np.where(rng.random(per_box) < 0.05, -1, SCANNET20.index(name)))
        ids.append(np.full(per_box, i))
    n = per_box * len(BOXES)
    return GaussianScene(
        means=np.concatenate(means).astype(np.float32),
        quats=canonical_quats(rng.normal(size=(n, 4))),
        scales=np.full((n, 3), 0.04, np.float32),
        opacities=(0.5 + 0.4 * rng.random(n)).astype(np.float32),
        colors=np.concatenate(colors).astype(np.float32),
        labels=np.concatenate(labels).astype(np.int32),
        instances=np.concatenate(ids).astype(np.int32),
        name=f"room_{seed}",
        label_space="scannet20",
    )
