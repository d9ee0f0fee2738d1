"""Segment reductions: sum, mean and max of rows that share an id, for torch tensors on any device.

`torch-scatter` is used where it is installed; the native twin below gives the same numbers (forward and gradient),
so no result depends on whether the extension could be built. Conventions, the same for both:

- an empty segment yields zeros (mean and max included);
- the gradient of `max` goes to one row per (segment, channel): the first row, in row order, that holds the maximum.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

Reduce = Literal["sum", "mean", "max"]


@functools.cache
def torch_scatter_module() -> ModuleType | None:
    """The `torch_scatter` package, or None where it is not installed or does not load."""
    try:
        return importlib.import_module("torch_scatter")
    except (ImportError, OSError):
        return None


def segment_reduce(
    values: Tensor, ids: Tensor, n_segments: int, reduce: Reduce, *, native: bool | None = None
) -> Tensor:
    """Reduce the rows of `values` that share an id.

    Args:
        values: [M, ...] floating point.
        ids: [M] i64 in [0, n_segments), in any order.
        n_segments: number of rows of the result.
        reduce: "sum", "mean" or "max".
        native: force the native twin (True) or torch-scatter (False); None picks torch-scatter where it is installed.

    Returns:
        [n_segments, ...], dtype of `values`; empty segments are zero.
    """
    if ids.ndim != 1 or len(ids) != len(values):
        raise ValueError(f"ids must be [M] with M = {len(values)} rows of values, got {tuple(ids.shape)}")
    if reduce not in ("sum", "mean", "max"):
        raise ValueError(f"reduce must be 'sum', 'mean' or 'max', got {reduce!r}")
    scatter = None if native else torch_scatter_module()
    if scatter is None and native is False:
        raise ModuleNotFoundError("torch_scatter is not installed")
    if reduce == "max":
        # torch-scatter's argmax is whichever row won a race on CUDA; the native form is exact, so it serves both
        return _SegmentMax.apply(values, ids, n_segments)
    if scatter is not None:
        return scatter.scatter(values, ids, dim=0, dim_size=n_segments, reduce=reduce)
    total = values.new_zeros((n_segments, *values.shape[1:])).index_add(0, ids, values)
    if reduce == "sum":
        return total
    count = segment_counts(ids, n_segments).clamp_(min=1).to(values.dtype)
    return total / count.view(-1, *[1] * (values.ndim - 1))


def segment_counts(ids: Tensor, n_segments: int) -> Tensor:
    """Rows [n_segments] i64 of every segment; `ids` [M] i64. (On a GPU torch.bincount would make the host wait.)"""
    return ids.new_zeros(n_segments).index_add_(0, ids, torch.ones_like(ids))


class _SegmentMax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, ids: Tensor, n_segments: int) -> Tensor:
        flat = values.reshape(len(values), -1)  # [M, C]
        index = ids[:, None].expand_as(flat)  # [M, C]
        shape = (n_segments, flat.shape[1])
        top = flat.new_zeros(shape).scatter_reduce_(0, index, flat, "amax", include_self=False)
        if values.requires_grad:
            # first row that attains the maximum; M marks "not it"
            rows = torch.arange(len(flat), device=flat.device)[:, None]
            rows = torch.where(flat == top.index_select(0, ids), rows, len(flat))  # [M, C]
            winner = torch.full(shape, len(flat), dtype=torch.int64, device=flat.device)
            ctx.save_for_backward(winner.scatter_reduce_(0, index, rows, "amin"))
            ctx.shape = values.shape
        return top.view(n_segments, *values.shape[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (winner,) = ctx.saved_tensors
        m = ctx.shape[0]
        padded = grad.new_zeros((m + 1, winner.shape[1])).scatter_(0, winner, grad.reshape(winner.shape))
        return padded[:m].view(ctx.shape), None, None
