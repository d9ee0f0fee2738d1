"""Weights of the loss terms as pure functions of the epoch, so that resuming needs no scheduler state."""

from __future__ import annotations

from dataclasses import dataclass

from stage2_distill.settings import Stage, TeacherSettings


def stage_weight(epoch: float, stage: Stage) -> float:
    """Weight of a term at a point of the run: 0 outside [start, end), a linear rise over `warm_in` epochs, then
    `weight`.

    The staged schedule A(e) of Chorus: language first, others join later (arXiv 2512.17817; the stages' lengths are not
    published).
    """
    if epoch < stage.start or (stage.end is not None and epoch >= stage.end):
        return 0.0
    if stage.warm_in <= 0:
        return stage.weight
    return stage.weight * min(1.0, (epoch - stage.start) / stage.warm_in)


@dataclass(frozen=True)
class TermWeights:
    """Weights of one teacher's terms at a point of the run: teacher = lambda_t of all of them, the others = eta_t of
    its terms beside the match.
    """

    teacher: float
    anchors: float = 0.0
    masks: float = 0.0
    labels: float = 0.0


def term_weights(epoch: float, teacher: TeacherSettings) -> TermWeights:
    """All weights of a teacher at `epoch`."""
    return TermWeights(
        stage_weight(epoch, teacher),
        stage_weight(epoch, teacher.anchors),
        stage_weight(epoch, teacher.masks),
        stage_weight(epoch, teacher.labels),
    )
