"""Training steps on the device against the same on the CPU: losses, gradients and weights; and the memory of a step."""

from __future__ import annotations

import torch

from stage2_distill.distill import DistillRecipe
from stage2_distill.engine.distributed import Processes
from stage2_distill.engine.trainer import Trainer
from tests.gpu_check.context import MIB, Context, relative_error
from tests.stage2.store_fakes import add_masks
from tests.stage2.train_child import tiny_config, tiny_data

#: every loss term; no drop path, whose draws differ between devices where clouds have no seeds
SETTINGS = (
    "encoder.overrides.drop_path=0.0", "teachers.text.masks.weight=0.1", "teachers.text.masks.cover=0.0",
    "teachers.dense.labels.weight=0.1", "teachers.dense.labels.min_rows=5", "teachers.text.prototypes.weight=1.0",
    "teachers.text.prototypes.count=8",
)  # fmt: skip
STEPS = 3


def run(context: Context) -> None:
    """A row per precision: the largest relative differences over some steps."""
    torch.backends.cuda.matmul.allow_tf32 = False
    for amp, allowed in (("off", 1e-3), ("bf16", 0.2)):
        context.check_time(5)
        ours, theirs = (_trained(torch.device(name), amp) for name in (context.device.type, "cpu"))
        losses = max(abs(a - b) / abs(b) for a, b in zip(ours[0], theirs[0]))
        weights = max(
            relative_error(ours[1][name], value) for name, value in theirs[1].items() if value.is_floating_point()
        )
        memory = torch.cuda.max_memory_allocated() / MIB if context.cuda else None
        passed = losses <= allowed and all(torch.isfinite(v).all() for v in ours[1].values())
        context.add(amp=amp, steps=STEPS, loss=losses, weights=weights, mib=memory, passed=passed)


def _trained(device: torch.device, amp: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of some steps, and the weights afterwards."""
    data = tiny_data()
    add_masks(list(data.scenes))
    trainer = Trainer(DistillRecipe(tiny_config(*SETTINGS, f"amp={amp}"), data, device), Processes(0, 1))
    losses = [float(trainer.step(step).record["loss"]) for step in range(STEPS)]
    return losses, {name: value.cpu() for name, value in trainer.model.state_dict().items()}
