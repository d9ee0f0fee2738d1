"""What can be asked of an encoder or a student for every Gaussian, and how it is averaged over passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from chorus_common.runtime.errors import ConfigError
from stage2_distill.encoder import Encoder
from stage2_distill.encoder.latent import LatentBlock
from stage2_distill.projectors import NormInputProjector
from stage2_distill.split_projector import SplitProjector
from stage2_distill.student import Student

#: The encoder's latent, and the tokens of its deepest level, by the names that the released Chorus gives them.
UPCAST, LAST = "backbone_upcast", "backbone_last"

#: A block of a latent -> features of its n voxels, [n, C].
OfBlock = Callable[[LatentBlock], Tensor]


@dataclass(frozen=True)
class Output:
    """One kind of features.

    Attributes:
        name, channels: as files are called, and their width.
        of_latent: block of n voxels of one pass -> [n, channels], what passes are averaged over.
        finish: mean over the passes [n, channels] -> the features.
    """

    name: str
    channels: int
    of_latent: OfBlock
    finish: Callable[[Tensor], Tensor]


def outputs(model: Encoder | Student, names: Sequence[str]) -> list[Output]:
    """The outputs `names` of a model, without the tokens (`LAST`). ConfigError naming what it does not have."""
    student = model if isinstance(model, Student) else None
    encoder = model if isinstance(model, Encoder) else model.encoder
    if repeated := [n for i, n in enumerate(names) if n in names[:i]]:
        raise ConfigError(f"output '{repeated[0]}' is asked for twice")
    found = []
    for name in names:
        if name == LAST:
            continue
        if name == UPCAST:
            found.append(Output(name, encoder.out_channels, LatentBlock.dense, _same))
        elif student is not None and name in student.teachers:
            found.append(_teacher(student, name))
        else:
            teachers = () if student is None else student.teachers
            what = "encoder has no projector" if student is None else "student has no output"
            raise ConfigError(f"this {what} '{name}'; it has {', '.join((*teachers, UPCAST, LAST))}")
    return found


def _teacher(student: Student, name: str) -> Output:
    """A teacher's space. Directions are averaged: every pass says where it points, not how sure it is; of a projector
    whose length means something ("plain") the features themselves are.
    """
    teacher, project = student.config.teachers[name], projection(student, name)
    if teacher.space == "plain":
        return Output(name, teacher.channels, project, _same)
    return Output(
        name,
        teacher.channels,
        lambda block: F.normalize(project(block).float(), dim=-1),
        lambda mean: student.unstandardise(name, mean),
    )


def projection(student: Student, name: str) -> OfBlock:
    """`Student.project` for blocks of a latent."""
    projector = student.projector(name)
    if isinstance(projector, NormInputProjector):
        return SplitProjector(projector)
    return lambda block: student.project(name, block.dense())


def _same(x: Tensor) -> Tensor:
    return x
