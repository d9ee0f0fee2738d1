"""Submanifold sparse convolution (Graham et al. 2018) as gather-GEMM, forward and backward, without an N x k^3 x C tensor.

out[p] = bias + sum over taps t of W[:, t] . x[neighbour of p at t]; output sites are the input sites. The weight keeps spconv's layout
(out, kx, ky, kz, in), so published weights load as they are; it is a cross-correlation, equal to torch's conv3d with
weight.permute(0, 4, 1, 2, 3) on the dense grid.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from stage2_distill.encoder.neighbours import Neighbours


class SubMConv3d(nn.Module):
    """Submanifold convolution [N, in] -> [N, out]; parameters `weight` (out, k, k, k, in) and optional `bias` (out)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, bias: bool = True) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(out_channels, kernel, kernel, kernel, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(fan in), torch's and spconv's default."""
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor, neighbours: Neighbours) -> Tensor:
        return submanifold_conv(x, self.weight, self.bias, neighbours)


def submanifold_conv(x: Tensor, weight: Tensor, bias: Tensor | None, neighbours: Neighbours) -> Tensor:
    """Submanifold convolution of x [N, in] with weight (out, k, k, k, in) and bias (out); returns [N, out].

    Under autocast the products run in the autocast dtype, as torch's own convolutions do.
    """
    if weight.shape[1] != neighbours.kernel:
        raise ValueError(f"neighbour table is for kernel {neighbours.kernel}, weight has kernel {weight.shape[1]}")
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return _SubMConv.apply(x, weight, bias, neighbours)


class _SubMConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, neighbours: Neighbours) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.neighbours = neighbours
        taps = weight.flatten(1, 3).permute(1, 2, 0)  # [k^3, in, out]
        return _gather_gemm(x, taps, bias, neighbours)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        neighbours: Neighbours = ctx.neighbours
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            # mirrored taps: the table read backwards is the table of the transposed convolution
            taps = weight.flatten(1, 3).flip(1).permute(1, 0, 2)  # [k^3, out, in]
            grad_x = _gather_gemm(grad, taps, None, neighbours)
        if ctx.needs_input_grad[1]:
            flat = weight.new_empty(weight.shape[0], neighbours.kernel**3, weight.shape[-1])  # [out, k^3, in]
            for t in range(neighbours.kernel**3):
                if t == neighbours.centre:
                    flat[:, t] = grad.T @ x
                else:
                    out_rows, in_rows = neighbours.tap(t)
                    flat[:, t] = grad.index_select(0, out_rows).T @ x.index_select(0, in_rows)
            grad_weight = flat.view_as(weight)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(0)
        return grad_x, grad_weight, grad_bias, None


def _gather_gemm(x: Tensor, taps: Tensor, bias: Tensor | None, neighbours: Neighbours) -> Tensor:
    """sum over taps of x[in rows] @ taps[t], added to the out rows; x [N, in], taps [k^3, in, out] -> [N, out]."""
    centre = taps[neighbours.centre]
    out = x @ centre if bias is None else torch.addmm(bias, x, centre)
    for t in range(len(taps)):
        out_rows, in_rows = neighbours.tap(t)
        if len(out_rows):
            out.index_add_(0, out_rows, x.index_select(0, in_rows) @ taps[t])
    return out
