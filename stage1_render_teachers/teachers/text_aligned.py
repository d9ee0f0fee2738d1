"""The embedded text-aligned teacher: a small convolutional network from pixels to one text-aligned vector per cell.

It needs no download: its weights (under 2 MB with the text side, chorus_common/text.py) ship with the package and are
made by train_text_aligned.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from chorus_common.errors import WeightsError
from chorus_common.lifting import CellGrid
from chorus_common.teacher_specs import device_of
from chorus_common.text import EMBEDDED_TEXT_CHANNELS, EMBEDDED_TEXT_SPEC, read_pair
from stage1_render_teachers.teachers.cell_network import PATCH, cell_vectors, load_network

WEIGHTS = Path(__file__).parent / "weights" / "text_aligned.safetensors"


class TextAlignedTeacher:
    """Dense teacher "embedded:text": unit vectors whose cosine with `EmbeddedTextEncoder.encode` ranks class names."""

    spec = EMBEDDED_TEXT_SPEC
    channels = EMBEDDED_TEXT_CHANNELS
    text_aligned = True

    def __init__(self, weights: Path = WEIGHTS, device: str | torch.device = "cpu") -> None:
        if not weights.is_file():
            raise WeightsError(
                f"{weights}: weights of the embedded teacher are missing; reinstall, "
                "or make them with python -m stage1_render_teachers.teachers.train_text_aligned"
            )
        self.network = load_network(weights, device_of(str(device)))
        self.fingerprint = f"{read_pair(weights)}-patch{PATCH}"

    def features(self, images: NDArray[np.uint8], grid: CellGrid) -> NDArray[np.float32]:
        """Unit vectors [B, rows, cols, channels] f32 of pictures [B, H, W, 3] u8, one per cell of `grid`."""
        return cell_vectors(self.network, images, grid)
