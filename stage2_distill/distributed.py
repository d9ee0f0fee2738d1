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

import torch
import torch.distributed as dist
from torch import Tensor, nn

from chorus_common.runtime.errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    """This process among `world` ones. A single process is rank 0 of 1 and needs no torchrun."""

    rank: int
    world: int

    def share(self, batch_size: int) -> tuple[int, int]:
        """First and last + 1 sample of each batch that this process takes; the ranks take it in order."""
        if batch_size % self.world:
            raise ConfigError(f"batch_size {batch_size} is not divisible by {self.world} processes")
        each = batch_size // self.world
        return self.rank * each, (self.rank + 1) * each

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a small tensor over all processes."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def average_gradients(self, model: nn.Module) -> None:
        """Mean of every gradient over all processes; a missing one counts as zero; where all lack it, it stays so."""
        if self.world == 1:
            return
        parameters = [p for p in model.parameters() if p.requires_grad]
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

    def average_buffers(self, model: nn.Module) -> None:
        """Mean of running statistics over all processes, so that every process holds the same model, which has seen
        every process's clouds. Counters (integers) are the same everywhere as it is.
        """
        buffers = [b for b in model.buffers() if b.is_floating_point()]
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
def process_group(device: torch.device) -> Iterator[Ranks]:
    """Join the group that torchrun's environment describes, if any; leave it at the end."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks(0, 1)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()
