"""The `gsplat` backend: projection, tile lists and pixels by gsplat on a CUDA GPU, weights per (cell, Gaussian) by a
Triton kernel over the same lists (tile_weights.py).

gsplat compiles its extension on first use, for which it needs a CUDA toolkit; several processes doing so at once race,
so compile it once before many workers start (docs/guide/gsplat.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chorus_common.lifting import CellGrid, CellHits
from chorus_common.rasterize.blend import interpolation_table
from chorus_common.rasterize.checks import checked_camera, checked_grid
from chorus_common.rasterize.hits import sort_and_merge
from chorus_common.rasterize.protocol import Interpolation, Rendered
from chorus_common.rasterize.rules import FAR_PLANE, MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE, NEAR_PLANE, low_pass
from chorus_common.runtime.errors import ConfigError
from chorus_common.scene import GaussianScene

TILE = 16


class GsplatRasterizer:
    """`Rasterizer` on one CUDA device. Raises ConfigError where there is none, or gsplat's extension is missing."""

    name = "gsplat"

    def __init__(self, device: str = "cuda") -> None:
        if not torch.cuda.is_available():
            raise ConfigError("rasterizer 'gsplat' needs a CUDA GPU and none is visible; use --set rasterizer=cpu")
        _check_extension()
        self.device = torch.device(device)

    def render(
        self,
        scene: GaussianScene,
        viewmat: NDArray[np.floating],
        K: NDArray[np.floating],
        width: int,
        height: int,
        *,
        grid: CellGrid | None = None,
        interpolation: Interpolation = "nearest",
        background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Rendered:
        """See `protocol.Rasterizer.render`."""
        import gsplat

        view, intrinsics = checked_camera(scene, viewmat, K, width, height)
        checked_grid(grid, interpolation, width, height)
        filtered = low_pass(scene)
        means, quats, scales, opacities, colors = (
            self._tensor(x) for x in (scene.means, scene.quats, scene.scales, scene.opacities, scene.colors)
        )
        radii, means2d, depths, conics, compensations = gsplat.fully_fused_projection(
            means, None, quats, scales, self._tensor(view)[None], self._tensor(intrinsics)[None], width, height,
            eps2d=filtered.eps2d, near_plane=NEAR_PLANE, far_plane=FAR_PLANE, packed=False, opacities=opacities,
            calc_compensations=filtered.compensated,
        )  # fmt: skip
        if filtered.compensated:
            opacities = opacities * compensations[0]
        tile_cols, tile_rows = -(-width // TILE), -(-height // TILE)
        _, intersections, gaussians = gsplat.isect_tiles(means2d, radii, depths, TILE, tile_cols, tile_rows)
        offsets = gsplat.isect_offset_encode(intersections, 1, tile_cols, tile_rows)
        rgbz = torch.cat([colors[None], depths[..., None]], dim=-1)  # [1, N, 4]
        back = self._tensor(np.array([[*background, 0.0]]))
        picture, alpha = gsplat.rasterize_to_pixels(
            means2d, conics, rgbz, opacities[None], width, height, TILE, offsets, gaussians, backgrounds=back
        )
        total = alpha[0, ..., 0]
        depth = torch.where(total > 0, picture[0, ..., 3] / total.clamp(min=1e-12), 0.0)
        hits = None
        if grid is not None:
            starts = torch.cat([offsets.flatten(), offsets.new_full((1,), len(gaussians))])
            weights, reach = cell_weights(
                means2d[0],
                conics[0],
                opacities,
                starts,
                gaussians,
                grid,
                interpolation == "bilinear",
                max_alpha(gsplat),
            )
            hits = gather_hits(weights, reach, starts, gaussians, grid)
        drawn = torch.cat([picture[0, ..., :3].permute(2, 0, 1), depth[None], total[None]]).cpu().numpy()  # [5, H, W]
        return Rendered(np.ascontiguousarray(drawn[:3].transpose(1, 2, 0)), drawn[3].copy(), drawn[4].copy(), hits)

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(self.device, non_blocking=True)


def _check_extension() -> None:
    """ConfigError unless gsplat's CUDA extension loads; compiles it the first time."""
    reason = "no CUDA toolkit found"
    try:
        from gsplat.cuda import _backend

        if _backend._C is not None:
            return
    except Exception as error:  # gsplat compiles while it is imported, by internals of torch: anything may come
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
    raise ConfigError(
        f"rasterizer 'gsplat': its CUDA extension cannot be compiled ({reason}); set CUDA_HOME to a CUDA toolkit that "
        "fits torch, or use --set rasterizer=cpu"
    )


def max_alpha(gsplat: Any) -> float:
    """Cap of alpha in this gsplat's kernels: those that can name contributing Gaussians (after 1.5.3) cut at 0.99."""
    return 0.99 if hasattr(gsplat, "rasterize_num_contributing_gaussians") else MAX_ALPHA


class Reach:
    """Which cells the pixels of each tile are shared over, along one axis.

    first [tiles] i64: first cell of each tile; shares [tiles * TILE, slots] f32, slots a power of two.
    """

    def __init__(self, pixels: int, cell: int, bilinear: bool) -> None:
        tiles, cells = -(-pixels // TILE), -(-pixels // cell)
        tables = [
            interpolation_table(t * TILE, min(TILE, pixels - t * TILE), cell, cells, bilinear) for t in range(tiles)
        ]
        most = max(int((low + (share > 0)).max()) + 1 for _, low, share in tables)
        self.slots = 1 << (most - 1).bit_length()
        self.first = np.array([first for first, _, _ in tables], dtype=np.int64)
        self.shares = np.zeros((tiles * TILE, self.slots), dtype=np.float32)
        for t, (_, low, share) in enumerate(tables):
            rows = t * TILE + np.arange(len(low))
            self.shares[rows, low] = 1 - share
            onward = share > 0
            self.shares[rows[onward], low[onward] + 1] = share[onward]


def cell_weights(
    means2d: Tensor, conics: Tensor, opacities: Tensor, starts: Tensor, gaussians: Tensor, grid: CellGrid,
    bilinear: bool, alpha_cap: float,
) -> tuple[Tensor, tuple[Reach, Reach]]:  # fmt: skip
    """Weights [K, slots] f32 of every intersection in each of its tile's cells, and what the slots mean."""
    from chorus_common.rasterize.tile_weights import tile_weights

    rows, cols = Reach(grid.height, grid.cell, bilinear), Reach(grid.width, grid.cell, bilinear)
    device = means2d.device
    out = torch.zeros(len(gaussians), rows.slots * cols.slots, device=device)
    if len(gaussians):
        tile_weights[(len(starts) - 1,)](
            means2d.contiguous(), conics.contiguous(), opacities.contiguous(), starts.long(), gaussians.long(),
            *(torch.from_numpy(axis.shares).to(device, non_blocking=True) for axis in (rows, cols)), out,
            len(cols.first), grid.width, grid.height, alpha_cap, MIN_ALPHA, MIN_TRANSMITTANCE,
            TILE=TILE, ROWS=rows.slots, COLS=cols.slots,
        )  # fmt: skip
    return out, (rows, cols)


def gather_hits(
    weights: Tensor, reach: tuple[Reach, Reach], starts: Tensor, gaussians: Tensor, grid: CellGrid
) -> CellHits:
    """Weights [K, slots] per intersection as hits in the order of `CellHits`, each pair once."""
    rows, cols = reach
    k, slot = torch.nonzero(weights > 0, as_tuple=True)
    found = weights[k, slot].cpu().numpy()
    ids, at, place = torch.stack([gaussians[k].long(), k, slot]).cpu().numpy()
    tile = np.searchsorted(starts.cpu().numpy(), at, side="right") - 1
    row = rows.first[tile // len(cols.first)] + place // cols.slots
    col = cols.first[tile % len(cols.first)] + place % cols.slots
    return CellHits(*sort_and_merge((row * grid.cols + col).astype(np.int32), ids.astype(np.int32), found))
