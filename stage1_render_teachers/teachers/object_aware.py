"""The embedded object-aware teacher: vectors that agree within an object and tell it from its neighbours.

What PE-Spatial is among the published teachers (Bolya et al. 2025, arXiv 2504.13181): a network that began as the
text-aligned one and was then taught what belongs together. Not text-aligned: class names say nothing to it. Its
weights ship with the package and are made by train_object_aware.py.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from chorus_common.errors import WeightsError
from chorus_common.lifting import CellGrid
from chorus_common.teacher_specs import device_of
from stage1_render_teachers.teachers.cell_network import PATCH, cell_vectors, load_network

WEIGHTS = Path(__file__).parent / "weights" / "object_aware.safetensors"


class ObjectAwareTeacher:
    """Dense teacher "embedded:objects": unit vectors per cell."""

    spec = "embedded:objects"
    channels = 64
    text_aligned = False

    def __init__(self, weights: Path = WEIGHTS, device: str | torch.device = "cpu") -> None:
        if not weights.is_file():
            raise WeightsError(
                f"{weights}: weights of the embedded teacher are missing; reinstall, "
                "or make them with python -m stage1_render_teachers.teachers.train_object_aware"
            )
        self.network = load_network(weights, device_of(str(device)))
        self.fingerprint = f"{hashlib.sha256(weights.read_bytes()).hexdigest()[:16]}-patch{PATCH}"

    def features(self, images: NDArray[np.uint8], grid: CellGrid) -> NDArray[np.float32]:
        """Unit vectors [B, rows, cols, channels] f32 of pictures [B, H, W, 3] u8, one per cell of `grid`."""
        return cell_vectors(self.network, images, grid)
