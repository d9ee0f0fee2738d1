"""Rows of a tensor, with a backward pass whose sums have a fixed order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def take_rows(values: Tensor, rows: Tensor) -> Tensor:
    """values[rows] for distinct rows, with a backward pass that copies.

    Indexing's own backward pass adds, on several threads in no fixed order; for distinct rows a copy is the same sum,
    and reproducible.
    """
    return values if len(rows) == len(values) else _TakeRows.apply(values, rows)


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.size = len(values)
        return values.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return grad.new_zeros(ctx.size, *grad.shape[1:]).index_copy_(0, rows, grad), None
