"""What one process holds of a recipe in training, in bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from stage2_distill.engine.sharding import local
from stage2_distill.engine.trainer import Trainer


def held_bytes(trainer: Trainer[Any], step: int = 0) -> dict[str, int]:
    """Bytes of parameters, their gradients, moments and average at optimiser step `step`, which is made."""
    gradients: list[int] = []

    def look(*_: Any) -> None:
        gradients.append(_bytes(p.grad for p in trainer.model.parameters() if p.grad is not None))

    hook = trainer.optimizer.register_step_pre_hook(look)
    trainer.step(step)
    hook.remove()
    moments = [v for state in trainer.optimizer.state.values() for v in state.values()]
    weights = dict(trainer.model.named_parameters())
    average = [] if trainer.ema is None else [v for name, v in trainer.ema.tensors.items() if name in weights]
    return {
        "weights": _bytes(weights.values()),
        "gradients": gradients[0],
        "moments": _bytes(moments),
        "average": _bytes(average),
    }


def whole_bytes(model: nn.Module) -> int:
    """Bytes of all parameters, however they are shared out."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in map(local, tensors))
