"""Data-parallel training through torchrun: which samples a process takes, and how gradients meet.

Gradients are averaged by one all-reduce over a flat buffer after the backward pass instead of by hooks on every
parameter: a teacher that is not active yet, or missing from one process's scenes, has no gradient there, which hooks
cannot wait for; and the order of sums is fixed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from chorus_common.runtime.errors import ConfigError
from stage2_distill.engine.sharding import is_shared_out

#: How long processes wait for each other: the first one validates and scores while the others wait.
PATIENCE = timedelta(hours=24)


@dataclass(frozen=True)
class Processes:
    """This process among `world` ones. A single process is rank 0 of 1 and needs no torchrun."""

    rank: int
    world: int

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, batch_size: int) -> tuple[int, int]:
        """First and last + 1 sample of each batch that this process takes; the ranks take it in order.

        Raises ConfigError where that does not work out evenly.
        """
        if batch_size % self.world:
            raise ConfigError(
                f"batch_size {batch_size} is not divisible by {self.world} processes; set it to a multiple of them "
                "(of a field: views_per_step)"
            )
        each = batch_size // self.world
        return self.rank * each, (self.rank + 1) * each

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a small tensor over all processes, all of which must ask for it."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a small tensor over all processes, all of which must ask for it."""
        return value if self.world == 1 else self.sum(value.clone()) / self.world

    def scale(self, count: float, device: torch.device) -> float:
        """What makes a mean over `count` items of this process count as much as they are among those of all processes:
        the mean over processes of scaled means is the mean over all items. 1 for a single process. All must ask.
        """
        if self.world == 1:
            return 1.0
        total = float(self.sum(torch.tensor([count], dtype=torch.float64, device=device)))
        return count * self.world / total if total > 0 else 1.0

    def average_gradients(self, model: nn.Module) -> None:
        """Mean of every gradient over all processes; a missing one counts as zero; where all lack it, it stays so.

        Gradients of shared-out parameters are means already.
        """
        parameters = [p for p in model.parameters() if p.requires_grad and not is_shared_out(p)]
        if self.world == 1 or not parameters:
            return
        present = torch.tensor(
            [p.grad is not None for p in parameters], dtype=torch.float32, device=parameters[0].device
        )
        dist.all_reduce(present)
        taking = [p for p, n in zip(parameters, present.tolist()) if n > 0]
        if not taking:
            return
        flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in taking])
        dist.all_reduce(flat)
        flat /= self.world
        for parameter, part in zip(taking, flat.split([p.numel() for p in taking])):
            parameter.grad = part.view_as(parameter)

    def average_statistics(self, model: nn.Module) -> None:
        """Mean of BatchNorm's running statistics over all processes, so that every process holds the same model, which
        has seen every process's clouds. Counters (integers) are the same everywhere as it is.
        """
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        buffers = [b for m in norms for b in m.buffers() if b.is_floating_point()]
        if self.world == 1 or not buffers:
            return
        flat = torch.cat([b.flatten() for b in buffers])
        dist.all_reduce(flat)
        flat /= self.world
        for buffer, part in zip(buffers, flat.split([b.numel() for b in buffers])):
            buffer.copy_(part.view_as(buffer))


def is_main_process() -> bool:
    """Whether this process is the one of torchrun's that speaks (or the only one)."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def process_group(device: torch.device) -> Iterator[Processes]:
    """Join the group that torchrun's environment describes, if any; leave it at the end. Inside another one of these
    nothing is joined or left.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes(0, 1)
        return
    if dist.is_initialized():
        yield Processes(dist.get_rank(), world)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()
