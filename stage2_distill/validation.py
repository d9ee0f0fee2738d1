"""How well a student matches its teachers on scenes that it does not learn from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stage2_distill.data.dataset import CacheDataset
from stage2_distill.losses.total import teacher_terms
from stage2_distill.schedule import TermWeights
from stage2_distill.settings import TeacherSettings
from stage2_distill.student import Student
from stage2_distill.zero_shot import ZeroShotCheck


@torch.no_grad()
def validate(
    student: Student,
    dataset: CacheDataset,
    teachers: Mapping[str, TeacherSettings],
    device: torch.device,
    check: ZeroShotCheck | None = None,
) -> dict[str, dict[str, float]]:
    """Mean match, cosine and SmoothL1 per teacher over scenes as they are at inference (`CacheDataset.plain`), each
    counting the same; a teacher that no scene has is left out. Labelled scenes are asked to `check`, too.
    """
    student.eval()
    sums = Sums()
    for number in range(len(dataset.scenes)):
        plain = dataset.plain(number)
        batch = plain.batch.to(device)
        latent = student.encoder(batch.points)
        for name in batch.targets:
            term = teacher_terms(student, name, latent, batch, teachers[name], TermWeights(1.0))
            sums.add(name, term.values(), 1.0)
        if check is not None and plain.scene.labels is not None and plain.scene.label_space == check.label_space:
            check.add(latent, plain.voxel, plain.scene.labels)
    return sums.means()


class Sums:
    """Weighted means of named values per teacher."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, float]] = {}
        self._weight: dict[str, float] = {}

    def add(self, name: str, values: Mapping[str, Tensor], weight: float) -> None:
        sums = self._sums.setdefault(name, dict.fromkeys(values, 0.0))
        for key, value in values.items():
            sums[key] += float(value.detach()) * weight
        self._weight[name] = self._weight.get(name, 0.0) + weight

    def means(self) -> dict[str, dict[str, float]]:
        return {n: {k: v / self._weight[n] for k, v in sums.items()} for n, sums in self._sums.items()}
