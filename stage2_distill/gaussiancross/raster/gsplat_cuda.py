"""The same rendering on a GPU, by gsplat. Imported inside the function: only a run that has a GPU needs it."""

from __future__ import annotations

import torch
from torch import Tensor

from chorus_common.runtime.errors import ConfigError


def rasterize_gsplat(
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
    """As `rasterize_cpu`, on CUDA tensors of float32.

    gsplat.rasterization takes activated scales and opacities and any quaternions, and only multiplies by the view
    matrix, so that an affine one is as good as a rigid one. "RGB+D" adds the accumulated depth as a last channel.
    """
    if not means.is_cuda:
        raise ConfigError('the gsplat backend needs CUDA tensors; use --device cuda, or rasterizer = "cpu"')
    from gsplat import rasterization

    with torch.autocast("cuda", enabled=False):
        rendered, alpha, _ = rasterization(
            means.float(), quats.float(), scales.float(), opacities.float(), values.float(),
            viewmat.to(means)[None], intrinsics.to(means)[None], width, height,
            render_mode="RGB+D", packed=False, tile_size=16,
        )  # fmt: skip
    return rendered[0, ..., :-1], rendered[0, ..., -1], alpha[0, ..., 0]
