"""Submanifold sparse convolution (Graham et al. 2018) as gather-GEMM, forward and backward, without an N x k^3 x C
tensor.

out[p] = bias + sum over taps t of W[:, t] . x[neighbour of p at t]; output sites are the input sites. The weight keeps
spconv's layout (out, kx, ky, kz, in), so published weights load as they are; it is a cross-correlation, equal to
torch's conv3d with weight.permute(0, 4, 1, 2, 3) on the dense grid.

Work goes in tiles of output rows whose accumulator stays in the cache; within a tile each tap gathers the rows it has,
multiplies and adds. Memory beyond input and output is one tile's, whatever N is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from stage2_distill.encoder.neighbours import Neighbours
from stage2_distill.encoder.products import ROUNDED_ROWS, rounds_rows

#: output rows per tile on a CPU (an accumulator of 4096 x 96 floats fills a level-2 cache) and elsewhere
CPU_TILE, DEVICE_TILE = 4096, 1 << 18


class SubMConv3d(nn.Module):
    """Submanifold convolution [N, in] -> [N, out]; parameters `weight` (out, k, k, k, in) and optional `bias` (out)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, bias: bool = True) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.weight = nn.Parameter(torch.empty(out_channels, kernel_size, kernel_size, kernel_size, in_channels))
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

    def tiles(self, x: Tensor, neighbours: Neighbours) -> Iterator[tuple[slice, Tensor]]:
        """The result in parts, (rows, values of these rows), for callers that use them up at once. No gradients."""
        bias = None if self.bias is None else self.bias.detach()
        x, weight, bias = _autocast(x.detach(), self.weight.detach(), bias)
        _check_kernel(weight, neighbours)
        return _gather_gemm(x, _taps(weight), bias, neighbours)


def submanifold_conv(x: Tensor, weight: Tensor, bias: Tensor | None, neighbours: Neighbours) -> Tensor:
    """Submanifold convolution of x [N, in] with weight (out, k, k, k, in) and bias (out); returns [N, out].

    Under autocast the products run in the autocast dtype, as torch's own convolutions do.
    """
    _check_kernel(weight, neighbours)
    return _SubMConv.apply(*_autocast(x, weight, bias), neighbours)


class _SubMConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, neighbours: Neighbours) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.neighbours = neighbours
        return _collect(_gather_gemm(x, _taps(weight), bias, neighbours), x, weight.shape[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        neighbours: Neighbours = ctx.neighbours
        grad = grad.contiguous()
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            # mirrored taps: the table read backwards is the table of the transposed convolution
            mirrored = weight.flatten(1, 3).flip(1).permute(1, 0, 2).contiguous()  # [k^3, out, in]
            grad_x = _collect(_gather_gemm(grad, mirrored, None, neighbours), grad, weight.shape[-1])
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_grad(x, grad, neighbours).permute(1, 0, 2).reshape(weight.shape)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(0)
        return grad_x, grad_weight, grad_bias, None


def _taps(weight: Tensor) -> Tensor:
    """(out, k, k, k, in) -> [k^3, in, out], contiguous."""
    return weight.flatten(1, 3).permute(1, 2, 0).contiguous()


def _tiles(neighbours: Neighbours, device: torch.device) -> Iterator[tuple[int, int, list[tuple[int, int, int]]]]:
    """Output rows [start, stop) and, for each tap that has pairs there, (tap, first pair, last pair + 1)."""
    rows = tile_rows(device)
    splits = neighbours.tile_splits(rows)
    for j, start in enumerate(range(0, neighbours.n_rows, rows)):
        ranges = [(t, s[j], s[j + 1]) for t, s in enumerate(splits) if s[j + 1] > s[j]]
        yield start, min(start + rows, neighbours.n_rows), ranges


def _gather_gemm(
    x: Tensor, taps: Tensor, bias: Tensor | None, neighbours: Neighbours
) -> Iterator[tuple[slice, Tensor]]:
    """Tiles of bias + sum over taps of x[in rows] @ taps[t], added to the out rows; x [N, in], taps [k^3, in, out].

    Low-precision products are summed in fp32, as a fused kernel's accumulator would.
    """
    centre = taps[neighbours.centre]
    wide = torch.promote_types(x.dtype, torch.float32)
    gathered, product = _workspace(x, neighbours, x.shape[1]), _workspace(x, neighbours, taps.shape[2])
    for start, stop, ranges in _tiles(neighbours, x.device):
        out = torch.mm(x[start:stop], centre).to(wide)
        if bias is not None:
            out += bias.to(wide)
        for t, first, last in ranges:
            n = last - first
            rows = _product_rows(n, gathered)
            torch.index_select(x, 0, neighbours.in_rows[first:last], out=gathered[:n])
            torch.mm(gathered[:rows], taps[t], out=product[:rows])
            out.index_add_(0, neighbours.out_rows[first:last] - start, product[:n].to(wide))
        yield slice(start, stop), out.to(x.dtype)


def _collect(parts: Iterator[tuple[slice, Tensor]], like: Tensor, channels: int) -> Tensor:
    out = like.new_empty((len(like), channels))
    for rows, values in parts:
        out[rows] = values
    return out


def _weight_grad(x: Tensor, grad: Tensor, neighbours: Neighbours) -> Tensor:
    """sum over pairs of grad[out row]^T x[in row] for every tap; [k^3, out, in]."""
    out = grad.new_zeros(neighbours.kernel_size**3, grad.shape[1], x.shape[1])
    out[neighbours.centre] = grad.T @ x
    given, gathered = _workspace(grad, neighbours, grad.shape[1]), _workspace(x, neighbours, x.shape[1])
    for _, _, ranges in _tiles(neighbours, x.device):
        for t, first, last in ranges:
            n = last - first
            torch.index_select(grad, 0, neighbours.out_rows[first:last], out=given[:n])
            torch.index_select(x, 0, neighbours.in_rows[first:last], out=gathered[:n])
            rows = _product_rows(n, gathered)
            if rows > n:
                given[n:rows], gathered[n:rows] = 0, 0
            out[t].addmm_(given[:rows].T, gathered[:rows])
    return out


def _product_rows(n: int, workspace: Tensor) -> int:
    """Rows of a workspace that a product of `n` is taken over: rounded up where oneDNN takes it."""
    low = workspace.dtype in (torch.bfloat16, torch.float16)
    if workspace.device.type != "cpu" or not (low or rounds_rows()):
        return n
    return min(-(-n // ROUNDED_ROWS) * ROUNDED_ROWS, len(workspace))


def _workspace(like: Tensor, neighbours: Neighbours, channels: int) -> Tensor:
    """Room [rows of a tile, channels] for what one tap takes from one tile, the same for all of them: it stays in the
    cache, and a heap that would otherwise be asked for thousands of sizes per step does not break into pieces
    (docs/design/encoder.md).
    """
    return like.new_empty((min(tile_rows(like.device), neighbours.n_rows), channels))


def tile_rows(device: torch.device) -> int:
    """Output rows per tile on this kind of device."""
    return CPU_TILE if device.type == "cpu" else DEVICE_TILE


def _autocast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    if not torch.is_autocast_enabled(x.device.type):
        return x, weight, bias
    dtype = torch.get_autocast_dtype(x.device.type)
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _check_kernel(weight: Tensor, neighbours: Neighbours) -> None:
    if weight.shape[1] != neighbours.kernel_size:
        raise ValueError(f"neighbour table is for kernel {neighbours.kernel_size}, weight has kernel {weight.shape[1]}")
