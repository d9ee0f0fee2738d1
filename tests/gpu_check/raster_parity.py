"""The gsplat backend against the CPU one: pictures and weights, for every cell from 1 to 16 pixels and both
interpolations; the weights against gsplat's own index operation and against the gradient of a render.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from chorus_common.cameras import look_at, pinhole
from chorus_common.lifting import CellGrid, CellHits
from chorus_common.rasterize import Interpolation, Rendered, get_backend
from chorus_common.scene import GaussianScene, RenderMode
from tests.gpu_check.context import Context
from tests.stage1.small_rooms import tiny_scene

WIDTH, HEIGHT = 170, 122
VIEW = look_at(np.array([2.0, 1.0, 0.5]), np.zeros(3))
K = pinhole(WIDTH, HEIGHT, 55)
#: share of pixels and of pairs that may differ by more than 1e-3: those on the edge of a cut-off
PIXELS, PAIRS = 0.02, 0.005


def run(context: Context) -> None:
    """A row per cell size, interpolation and mode; then one row per operation of gsplat."""
    n = context.size(3000, 200)
    ours, theirs = context.rasterizer(), get_backend("cpu")
    for mode in (RenderMode.CLASSIC, RenderMode.ANTIALIASED, RenderMode.MIP):
        scene = replace(tiny_scene(3, n), render_mode=mode)
        for cell in range(1, 17) if mode is RenderMode.CLASSIC else (8,):
            for interpolation in ("nearest", "bilinear"):
                context.check_time(1)
                grid = CellGrid(WIDTH, HEIGHT, cell)
                a, b = (_render(r, scene, grid, interpolation) for r in (ours, theirs))  # type: ignore[arg-type]
                pixels = max(_far(x, y) for x, y in ((a.color, b.color), (a.alpha, b.alpha), (a.depth, b.depth)))
                pairs, mass = _pairs(a.hits, b.hits, n)
                context.add(
                    what="cell", mode=mode.value, cell=cell, interpolation=interpolation, pixels=pixels, pairs=pairs,
                    mass=mass, passed=pixels <= PIXELS and pairs <= PAIRS and mass <= 2e-3,
                )  # fmt: skip
    if not context.cuda:
        context.add(what="operations", note="gsplat's own operations need a card", passed=True)
        return
    _operations(context, tiny_scene(3, n))


def _render(rasterizer, scene: GaussianScene, grid: CellGrid, interpolation: Interpolation) -> Rendered:  # type: ignore[no-untyped-def]
    return rasterizer.render(
        scene, VIEW, K, WIDTH, HEIGHT, grid=grid, interpolation=interpolation, background=(0.1, 0.2, 0.3)
    )


def _far(a: np.ndarray, b: np.ndarray) -> float:
    """Share of numbers that differ by more than 1e-3."""
    return float((np.abs(a - b) > 1e-3).mean())


def _pairs(a: CellHits | None, b: CellHits | None, n: int) -> tuple[float, float]:
    """Share of the pairs of either side whose weights differ by more than 1e-3 of a pixel; difference of all weight."""
    assert a is not None
    assert b is not None
    keys = [hits.cells.astype(np.int64) * n + hits.gaussian_ids for hits in (a, b)]
    every = np.union1d(*keys)
    weights = [np.zeros(len(every)) for _ in keys]
    for out, key, hits in zip(weights, keys, (a, b)):
        out[np.searchsorted(every, key)] = hits.weights
    return float((np.abs(weights[0] - weights[1]) > 1e-3).mean()), float(
        abs(weights[0].sum() - weights[1].sum()) / weights[1].sum()
    )


def _operations(context: Context, scene: GaussianScene) -> None:
    """One pixel per cell: pairs of `rasterize_to_indices_in_range`, and sums that are the gradient by colours."""
    import gsplat

    from chorus_common.rasterize.gsplat_cuda import TILE, cell_weights, gather_hits, max_alpha

    means, quats, scales, opacities = (
        torch.from_numpy(x).cuda() for x in (scene.means, scene.quats, scene.scales, scene.opacities)
    )
    view, k = (torch.from_numpy(x).float().cuda()[None] for x in (VIEW, K))
    radii, means2d, depths, conics, _ = gsplat.fully_fused_projection(
        means, None, quats, scales, view, k, WIDTH, HEIGHT, opacities=opacities, packed=False
    )
    cols, rows = -(-WIDTH // TILE), -(-HEIGHT // TILE)
    _, ids, flat = gsplat.isect_tiles(means2d, radii, depths, TILE, cols, rows)
    offsets = gsplat.isect_offset_encode(ids, 1, cols, rows)
    starts = torch.cat([offsets.flatten(), offsets.new_full((1,), len(flat))])
    grid = CellGrid(WIDTH, HEIGHT, 1)
    weights, reach = cell_weights(means2d[0], conics[0], opacities, starts, flat, grid, False, max_alpha(gsplat))
    hits = gather_hits(weights, reach, starts, flat, grid)
    found, pixels, _ = gsplat.rasterize_to_indices_in_range(
        0, 2**31 - 1, torch.ones(1, HEIGHT, WIDTH, device="cuda"), means2d, conics, opacities[None], WIDTH, HEIGHT,
        TILE, offsets, flat,
    )  # fmt: skip
    n = len(scene.means)
    ours = np.unique(hits.cells.astype(np.int64) * n + hits.gaussian_ids)
    theirs = np.unique((pixels * n + found).cpu().numpy())
    apart = len(np.setxor1d(ours, theirs)) / max(1, len(theirs))
    context.add(what="rasterize_to_indices_in_range", pairs=apart, passed=apart <= PAIRS)
    colors = torch.zeros(1, n, 1, device="cuda", requires_grad=True)
    picture, _ = gsplat.rasterize_to_pixels(
        means2d, conics, colors, opacities[None], WIDTH, HEIGHT, TILE, offsets, flat
    )
    picture.sum().backward()
    assert colors.grad is not None
    sums = np.bincount(hits.gaussian_ids, hits.weights, n)
    gradient = colors.grad[0, :, 0].cpu().numpy()
    error = float(np.linalg.norm(sums - gradient) / np.linalg.norm(gradient))
    context.add(what="gradient of a render", mass=error, passed=error <= 1e-2)
