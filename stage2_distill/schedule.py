"""Learning rate and teacher weights as pure functions of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stage2_distill.settings import LossSchedule, OptimSettings, TeacherSettings


def learning_rate(step: int, total: int, optim: OptimSettings) -> float:
    """Learning rate of step `step` in [0, total).

    "onecycle" equals torch's OneCycleLR (cosine annealing, pct_start = warmup, div_factor, final_div_factor) to
    rounding.
    """
    warm = optim.warmup * total
    if optim.schedule == "onecycle":
        first, last = optim.lr / optim.div, optim.lr / optim.div / optim.final_div
        top = warm - 1  # torch's convention: the peak is reached at step pct_start * total - 1
        if step <= top:
            return _cosine(first, optim.lr, step / top if top > 0 else 1.0)
        return _cosine(optim.lr, last, (step - top) / max(1e-9, total - 1 - top))
    if step < warm:
        return optim.lr * (step + 1) / (warm + 1)
    if optim.schedule == "constant":
        return optim.lr
    return _cosine(optim.lr, 0.0, (step - warm) / max(1.0, total - warm))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(1.0, max(0.0, share))))


def scheduled_weight(epoch: float, schedule: LossSchedule) -> float:
    """Weight of a term at a point of the run: 0 outside [start, end), a linear rise over `warmup` epochs, then
    `weight`.

    The staged schedule A(e) of Chorus: language first, others join later (arXiv 2512.17817; the stages' lengths are not
    published).
    """
    if epoch < schedule.start or (schedule.end is not None and epoch >= schedule.end):
        return 0.0
    if schedule.warmup <= 0:
        return schedule.weight
    return schedule.weight * min(1.0, (epoch - schedule.start) / schedule.warmup)


@dataclass(frozen=True)
class TermWeights:
    """Weights of one teacher's terms at a point of the run: teacher = lambda_t of all of them, the others = eta_t of
    its terms beside the distillation loss.
    """

    teacher: float
    prototypes: float = 0.0
    masks: float = 0.0
    labels: float = 0.0


def term_weights(epoch: float, teacher: TeacherSettings) -> TermWeights:
    """All weights of a teacher at `epoch`."""
    return TermWeights(
        scheduled_weight(epoch, teacher),
        scheduled_weight(epoch, teacher.prototypes),
        scheduled_weight(epoch, teacher.masks),
        scheduled_weight(epoch, teacher.labels),
    )
