"""Render Gaussians into a posed view: colour, depth, feature and alpha, differentiable in all attributes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from stage2_distill.gaussiancross.raster.cpu import rasterize_cpu
from stage2_distill.gaussiancross.raster.gsplat_cuda import rasterize_gsplat
from stage2_distill.gaussiancross.selection import rows_where

Backend = Literal["auto", "cpu", "gsplat"]
Rasterize = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int, int], tuple[Tensor, Tensor, Tensor]]
_BACKENDS: dict[str, Rasterize] = {"cpu": rasterize_cpu, "gsplat": rasterize_gsplat}
#: Below this much weight along a ray there is no depth or feature to speak of.
MIN_WEIGHT = 1e-3


@dataclass(frozen=True, eq=False)
class Splats:
    """N Gaussians with features. Lengths are in units of the space that the view matrices start from.

    means [N, 3], quats [N, 4] (wxyz), scales [N, 3], opacities [N] in (0, 1), colors [N, 3], features [N, F].
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    features: Tensor

    def __len__(self) -> int:
        return len(self.means)

    def concatenate(self, other: Splats) -> Splats:
        """These, then those of `other`."""
        return Splats(*(torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))

    def float(self) -> Splats:
        """The same in float32."""
        return Splats(*(getattr(self, f.name).float() for f in fields(self)))

    def select(self, rows: Tensor) -> Splats:
        """The Gaussians at `rows`."""
        return Splats(*(getattr(self, f.name)[rows] for f in fields(self)))


@dataclass(frozen=True, eq=False)
class RenderedView:
    """One view.

    color [H, W, 3] = sum w c (black behind), feature [H, W, F] = sum w f / sum w, depth [H, W] = sum w z / sum w in
    metres, alpha [H, W] = sum w.
    """

    color: Tensor
    feature: Tensor
    depth: Tensor
    alpha: Tensor


def prune(clouds: Sequence[Splats], min_opacity: float, most: int) -> list[Splats]:
    """Opacity-driven pruning: of each cloud the Gaussians of at least `min_opacity`, the `most` most opaque ones of
    them, in their order.

    Ties go to the first. What is pruned gets no gradient in this step; it is decided anew in each.
    """
    opacities = [splats.opacities.detach() for splats in clouds]
    kept = []
    for splats, opacity, rows in zip(clouds, opacities, rows_where([o >= min_opacity for o in opacities])):
        if len(rows) > most:
            rows = rows[opacity[rows].sort(descending=True, stable=True).indices[:most]].sort().values
        kept.append(splats.select(rows))
    return kept


def render(
    splats: Splats, viewmat: Tensor, intrinsics: Tensor, width: int, height: int, backend: Backend = "auto"
) -> RenderedView:
    """Render one view. "auto" takes gsplat for Gaussians on a GPU and our own kernels elsewhere.

    Args: viewmat [4, 4]: affine map from the Gaussians' space to camera space; intrinsics [3, 3] in pixels.
    """
    name = backend if backend != "auto" else ("gsplat" if splats.means.is_cuda else "cpu")
    values = torch.cat([splats.colors, splats.features], dim=1)
    picture, depth, alpha = _BACKENDS[name](
        splats.means, splats.quats, splats.scales, splats.opacities, values, viewmat, intrinsics, width, height
    )
    weight = alpha.clamp(min=MIN_WEIGHT)
    return RenderedView(picture[..., :3], picture[..., 3:] / weight[..., None], depth / weight, alpha)
