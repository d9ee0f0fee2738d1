"""In which space one teacher's targets are compared, and which of them are long enough to count."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from chorus_common.features.standardise import Translation
from stage2_distill.data.batch import TeacherTarget


@dataclass(frozen=True, eq=False)
class TargetSpace:
    """How a teacher's targets become what predictions are compared with.

    Attributes:
        translation: from the stores' standardised space to the student's; None where they are the same.
        offset, phi: the teacher's mean in the student's standardised frame [C], and the length of a unit of that frame
            in the teacher's own space.
        unit: whether targets are normalised to length 1.
        min_norm: length in the teacher's own space that a target must exceed; 0 = all count.
    """

    translation: Translation | None
    offset: Tensor
    phi: float
    unit: bool = False
    min_norm: float = 0.0

    def finished(self, target: TeacherTarget) -> TeacherTarget | None:
        """The targets that count, normalised where they are to be; None where none counts."""
        if self.min_norm > 0:
            # y = phi R^T (y' + R mean / phi), and a rotation keeps lengths
            long = (target.values + self.offset).norm(dim=1) * self.phi > self.min_norm
            if not long.any():
                return None
            target = TeacherTarget(*(t[long] for t in (target.rows, target.values, target.weight, target.cloud)))
        return replace(target, values=F.normalize(target.values, dim=1)) if self.unit else target
