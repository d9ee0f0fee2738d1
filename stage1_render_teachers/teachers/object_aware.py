"""The embedded object-aware teacher: vectors that agree within an object and tell it from its neighbours.

What PE-Spatial is among the published teachers (Bolya et al. 2025, arXiv 2504.13181): a network that began as the
text-aligned one and was then taught what belongs together. Not text-aligned: class names say nothing to it. Its
weights ship with the package and are made by train_object_aware.py.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from chorus_common.runtime.devices import pick_device
from stage1_render_teachers.teachers.cell_network import CHANNELS, PATCH, CellTeacher, load_network

WEIGHTS = Path(__file__).parent / "weights" / "object_aware.safetensors"


class ObjectAwareTeacher(CellTeacher):
    """Dense teacher "embedded:objects": unit vectors per cell."""

    spec = "embedded:objects"
    channels = CHANNELS
    text_aligned = False

    def __init__(self, weights: Path = WEIGHTS, device: str | torch.device = "cpu") -> None:
        super().__init__(load_network(weights, pick_device(str(device)), "train_object_aware"))
        self.fingerprint = f"{hashlib.sha256(weights.read_bytes()).hexdigest()[:16]}-patch{PATCH}"
