"""Weights, gradients, moments and averaged weights in equal shares, one per process: PyTorch's FSDP2 (ZeRO stage 3,
Rajbhandari et al. 2020, arXiv 1910.02054).

A unit (say, a block) is gathered before its forward and its backward pass and let go behind them; its gradients are
averaged and shared out as soon as they are there. Elsewhere its parameters are `DTensor`s, of which each process holds
a part along the first axis. What is not in a unit stays whole in every process.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(units: Sequence[nn.Module], device: torch.device) -> None:
    """Share out the parameters of `units`, inner ones first, over all processes of the group, in place."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for unit in units:
        fully_shard(unit, mesh=mesh)


def is_shared_out(tensor: Tensor) -> bool:
    """Whether this process holds a share of `tensor` only."""
    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of `tensor`, sharing its memory; the tensor itself where that is all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def placed(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every process has, placed as `like` is: on its device, and shared out where it is."""
    if not isinstance(like, DTensor):
        return value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def gathered(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """The tensors as they are, those that are shared out whole and on the host. All processes must ask, with the same
    ones; those without `keep` get no tensor that had to be gathered.
    """
    out = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            whole = tensor.full_tensor()  # one at a time: no process needs room for all of them on its device
            if keep:
                out[name] = whole.cpu()
        else:
            out[name] = tensor
    return out


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale all gradients so that their common norm is at most `limit`; returns the norm from before (scalar).

    As `torch.nn.utils.clip_grad_norm_`, which does not take whole and shared tensors together.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    shares = [g.to_local() for g in gradients if isinstance(g, DTensor)]
    whole = [g for g in gradients if not isinstance(g, DTensor)]
    if not shares:
        norm = torch.nn.utils.get_total_norm(whole)
    else:
        squares = torch.nn.utils.get_total_norm(shares).square()
        dist.all_reduce(squares)
        if whole:
            squares = squares + torch.nn.utils.get_total_norm(whole).square()
        norm = squares.sqrt()
    if math.isfinite(limit) and gradients:
        torch._foreach_mul_([*shares, *whole], (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm
