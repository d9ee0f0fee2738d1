"""How well a student matches its teachers on scenes that it does not learn from."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from stage2_distill.data.dataset import CacheDataset
from stage2_distill.engine.means import Means
from stage2_distill.engine.move import to_device
from stage2_distill.losses.schedule import TermWeights
from stage2_distill.losses.total import teacher_terms
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
    sums = Means()
    for number in range(len(dataset.scenes)):
        plain = dataset.plain(number)
        batch = to_device(plain.batch, device)
        latent = student.encoder(batch.points)
        for name in batch.targets:
            term = teacher_terms(student, name, latent, batch, teachers[name], TermWeights(1.0))
            sums.add(name, term.values(), 1.0)
        if check is not None and plain.scene.labels is not None and plain.scene.label_space == check.label_space:
            check.add(latent, plain.voxel, plain.scene.labels)
    return sums.means()
