"""The embedded text-aligned teacher: a small convolutional network from pixels to one text-aligned vector per cell.

It needs no download: its weights (under 2 MB with the text side, chorus_common/text.py) ship with the package and are
made by train_text_aligned.py.
"""

from __future__ import annotations

from pathlib import Path

import torch

from chorus_common.runtime.devices import pick_device
from chorus_common.text import EMBEDDED_TEXT_CHANNELS, EMBEDDED_TEXT_SPEC, read_pair
from stage1_render_teachers.teachers.cell_network import PATCH, CellTeacher, load_network

WEIGHTS = Path(__file__).parent / "weights" / "text_aligned.safetensors"


class TextAlignedTeacher(CellTeacher):
    """Dense teacher "embedded:text": unit vectors whose cosine with `EmbeddedTextEncoder.encode` ranks class names."""

    spec = EMBEDDED_TEXT_SPEC
    channels = EMBEDDED_TEXT_CHANNELS
    text_aligned = True

    def __init__(self, weights: Path = WEIGHTS, device: str | torch.device = "cpu") -> None:
        super().__init__(load_network(weights, pick_device(str(device)), "train_text_aligned"))
        self.fingerprint = f"{read_pair(weights)}-patch{PATCH}"
