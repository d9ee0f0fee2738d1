"""The learning rate as a pure function of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math

from stage2_distill.engine.settings import OptimSettings


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
