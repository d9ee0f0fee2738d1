"""Weights of the loss terms as pure functions of the epoch, so that resuming needs no scheduler state."""

from __future__ import annotations

from dataclasses import dataclass

from stage2_distill.settings import LossSchedule, TeacherSettings


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
