"""Learning rate and teacher weights as pure functions of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stage2_distill.settings import OptimSettings, Stage, TeacherSettings


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
