"""The differentiable CPU rasteriser as one autograd function.

Same input, same bytes, whatever the number of threads: a pixel is blended by one task in depth order, ties in depth go
by the Gaussian's index, and gradients are summed in the order of the tiles.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chorus_common.runtime.threads import default_threads, run_tasks
from stage2_distill.gaussiancross.raster.blend import blend_row, blend_row_backward, sum_pairs
from stage2_distill.gaussiancross.raster.projection import (
    DEPTH,
    GRAD_WIDTH,
    SPLAT_WIDTH,
    project,
    project_backward,
)
from stage2_distill.gaussiancross.raster.tiles import TILE, tile_lists

Floats = NDArray[np.floating]


def rasterize_cpu(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    values: Tensor,
    viewmat: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """(picture [H, W, C] = sum w v, depth [H, W] = sum w z, alpha [H, W] = sum w) of one view, on the CPU.

    Differentiable in means [N, 3], quats [N, 4] (wxyz, any length), scales [N, 3], opacities [N] and values [N, C], all
    float32 or all float64. viewmat [4, 4] is any affine map from the Gaussians' space to camera space (OpenCV axes),
    intrinsics [3, 3] are in pixels; neither gets a gradient. Threads: `NUMBA_NUM_THREADS`.
    """
    picture, depth, alpha = _Rasterize.apply(
        means, quats, scales, opacities, values,
        viewmat.detach().double().cpu().numpy(), intrinsics.detach().double().cpu().numpy(), width, height,
    )  # fmt: skip
    return picture, depth, alpha


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, values: Tensor,
        viewmat: Floats, intrinsics: Floats, width: int, height: int,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        arrays = [_array(x) for x in (means, quats, scales, opacities, values)]
        kind = arrays[0].dtype
        if any(x.dtype != kind for x in arrays) or kind not in (np.float32, np.float64):
            raise TypeError(
                f"Gaussians must be all float32 or all float64, got {', '.join(str(x.dtype) for x in arrays)}"
            )
        splats, ids = np.empty((len(means), SPLAT_WIDTH), kind), np.empty(len(means), np.int64)
        count = project(*arrays[:4], viewmat, intrinsics, width, height, splats, ids)
        order = np.argsort(splats[:count, DEPTH], kind="stable")
        splats, ids = np.ascontiguousarray(splats[order]), ids[order]
        sorted_values = np.ascontiguousarray(arrays[4][ids])
        start, ranks = tile_lists(splats, width, height)
        picture = np.empty((height, width, values.shape[1]), kind)
        depth, rest = np.empty((height, width), kind), np.empty((height, width))
        last = np.empty((height, width), np.int64)
        tiled = (splats, sorted_values, start, ranks)
        _by_rows(partial(_swap, blend_row, (*tiled, picture, depth, rest, last)), height)
        ctx.inputs, ctx.view = arrays, (viewmat, intrinsics, width, height)
        ctx.tiled, ctx.ids, ctx.rest, ctx.last = tiled, ids, rest, last
        return torch.from_numpy(picture), torch.from_numpy(depth), torch.from_numpy((1 - rest).astype(kind))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        means, quats, scales, opacities, values = ctx.inputs
        splats, _, _, ranks = ctx.tiled
        kind, width_of_pair = means.dtype, GRAD_WIDTH + values.shape[1]
        pairs = np.zeros((len(ranks), width_of_pair), kind)
        incoming = tuple(_array(g) for g in grads)
        _by_rows(
            partial(_swap, blend_row_backward, (*ctx.tiled, ctx.rest, ctx.last, *incoming, pairs)), ctx.rest.shape[0]
        )
        summed = np.zeros((len(splats), width_of_pair), kind)
        sum_pairs(pairs, ranks, summed)
        out = [np.zeros_like(x) for x in (means, quats, scales, opacities, values)]
        viewmat, intrinsics, width, height = ctx.view
        project_backward(means, quats, scales, viewmat, intrinsics, width, height, splats, ctx.ids, summed, *out[:4])
        out[4][ctx.ids] = summed[:, GRAD_WIDTH:]
        return (*(torch.from_numpy(x) for x in out), None, None, None, None)


def _array(tensor: Tensor) -> Floats:
    return np.ascontiguousarray(tensor.detach().numpy())


def _swap(kernel: Any, arguments: tuple[Any, ...], row: int) -> None:
    kernel(row, *arguments)


def _by_rows(task: Any, height: int) -> None:
    """Run task(row) for every row of tiles."""
    run_tasks([partial(task, row) for row in range(-(-height // TILE))], default_threads())
