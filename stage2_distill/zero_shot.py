"""A quick zero-shot check while training: class names against what a text-aligned head says. For curves and for picking
the best student; published figures come from the evaluation package.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chorus_common.labels import FOREGROUND_EXCLUDED, LABEL_SPACES
from chorus_common.runtime.errors import ConfigError
from chorus_common.text import load_text_encoder
from stage2_distill.student import Student


class ZeroShotCheck:
    """Counts right and wrong classes of one text-aligned teacher's head over labelled scenes of one label space.

    Prompts are the bare class names. Raises ConfigError where the teacher's text side cannot be had.
    """

    def __init__(self, student: Student, teacher: str, label_space: str) -> None:
        encoder = load_text_encoder(student.config.teachers[teacher].spec)
        if not student.config.teachers[teacher].fingerprint.startswith(encoder.pair):
            raise ConfigError(f"teacher '{teacher}': its features come from other weights than its text encoder")
        self.student, self.teacher, self.label_space = student, teacher, label_space
        self.names = LABEL_SPACES[label_space]
        self._text = torch.from_numpy(encoder.encode(list(self.names)))
        self._counts = np.zeros((len(self.names), len(self.names)), np.int64)

    def add(self, latent: Tensor, voxel: NDArray[np.int64], labels: NDArray[np.int32]) -> None:
        """Take in a scene: latent [M, D] of its voxels, voxel and label (-1 unknown) of its Gaussians [N]."""
        features = self.student.to_teacher_space(self.teacher, latent)
        asked = (features @ self._text.to(features).T).argmax(1).cpu().numpy()[voxel]
        known = labels >= 0
        size = len(self.names)
        pairs = labels[known].astype(np.int64) * size + asked[known]
        self._counts += np.bincount(pairs, minlength=size * size).reshape(size, size)

    def scores(self) -> dict[str, float]:
        """miou over the classes that occur, f_miou without wall, floor and ceiling; empty where no label was seen."""
        counts = self._counts
        truth, asked, right = counts.sum(1), counts.sum(0), np.diag(counts)
        present = truth > 0
        if not present.any():
            return {}
        iou = right / np.maximum(truth + asked - right, 1)
        small = present & ~np.isin(self.names, FOREGROUND_EXCLUDED)
        return {"miou": float(iou[present].mean()), "f_miou": float(iou[small].mean()) if small.any() else 0.0}


def text_aligned_teacher(student: Student, active: Iterable[str]) -> str:
    """The first of the teachers `active` that has a text side; ConfigError where none has."""
    for name in active:
        if student.config.teachers[name].text_aligned:
            return name
    raise ConfigError("zero_shot = true needs a text-aligned teacher among those that are trained on")
