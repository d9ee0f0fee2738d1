"""Learning rate and first beta as pure functions of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math

from stage2_distill.engine.settings import OptimSettings


def learning_rate(step: int, total: int, optim: OptimSettings) -> float:
    """Learning rate of step `step` in [0, total).

    "onecycle" equals torch's OneCycleLR (cosine annealing, pct_start = warmup, div_factor, final_div_factor) to
    rounding.
    """
    if optim.schedule == "onecycle":
        first = optim.lr / optim.div
        return _one_cycle(step, total, optim.warmup, first, optim.lr, first / optim.final_div)
    warm = optim.warmup * total
    if step < warm:
        return optim.lr * (step + 1) / (warm + 1)
    if optim.schedule == "constant":
        return optim.lr
    return _cosine(optim.lr, 0.0, (step - warm) / max(1.0, total - warm))


def first_beta(step: int, total: int, optim: OptimSettings) -> float:
    """AdamW's beta1 of step `step` in [0, total): constant, or against the learning rate as in torch's OneCycleLR with
    cycle_momentum (base_momentum, max_momentum = optim.cycle_beta1).
    """
    if optim.cycle_beta1 is None:
        return optim.betas[0]
    low, high = optim.cycle_beta1
    return _one_cycle(step, total, optim.warmup, high, low, high)


def _one_cycle(step: int, total: int, warmup: float, first: float, top: float, last: float) -> float:
    peak = warmup * total - 1  # torch's convention: the peak is reached at step pct_start * total - 1
    if step <= peak:
        return _cosine(first, top, step / peak if peak > 0 else 1.0)
    return _cosine(top, last, (step - peak) / max(1e-9, total - 1 - peak))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(1.0, max(0.0, share))))
