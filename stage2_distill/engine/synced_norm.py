"""BatchNorm over the rows of all processes, on any backend (torch's SyncBatchNorm refuses the CPU).

With it a batch that is spread over processes trains as one process would train with all of it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _SumOverProcesses(torch.autograd.Function):
    """Sum over all processes; so is the gradient, since every process's loss depends on the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class SyncedBatchNorm(nn.BatchNorm1d):
    """BatchNorm1d whose statistics, in training, are those of the rows [N, C] of all processes; N may differ.

    All processes must make the same forward and backward passes: each waits for the others.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        with torch.autocast(x.device.type, enabled=False):
            rows = x.float()
            sums = torch.cat([rows.sum(0), rows.new_tensor([len(rows)])])
            total: Tensor = _SumOverProcesses.apply(sums)
            count = total[-1].detach()
            mean = total[:-1] / count
            centred = rows - mean
            variance: Tensor = _SumOverProcesses.apply(centred.square().sum(0)) / count
            with torch.no_grad():
                self.num_batches_tracked += 1
                share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(variance * (count / (count - 1).clamp(min=1)), share)
            y = centred * torch.rsqrt(variance + self.eps)
            if self.affine:
                y = y * self.weight + self.bias
        return y.to(x.dtype)


def synchronise_batch_norm(model: nn.Module) -> None:
    """Turn every BatchNorm1d of `model` into a SyncedBatchNorm with the same parameters and buffers, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm1d:
                synced = SyncedBatchNorm(child.num_features, child.eps, child.momentum, child.affine)
                synced._parameters, synced._buffers = child._parameters, child._buffers
                synced.train(child.training)
                parent.add_module(name, synced)
