"""Per-Gaussian vectors seen from the views of a cache: W^T F, normalised per cell, with its gradient.

No rasteriser runs: the blending weights are in the lifting index. A view's matrix A [M cells, N Gaussians] has rows
that sum to one; its transpose, kept beside it, makes the backward pass a second sparse product.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from chorus_common.lifting import LiftingIndex

I64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ViewMatrix:
    """One view: `cells` [M] i64 that Gaussians cover, A [M, N] and its transpose as sparse CSR."""

    cells: I64
    forward: Tensor
    backward: Tensor

    def render(self, features: Tensor) -> Tensor:
        """Weighted means [M, C] of per-Gaussian features [N, C] in matrix-row order; differentiable in them."""
        return _ViewProduct.apply(features, self.forward, self.backward)


class _ViewProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ features

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transposed @ grad.contiguous(), None, None


def view_matrices(
    index: LiftingIndex,
    views: Sequence[int],
    *,
    min_alpha: float = 0.5,
    wanted: NDArray[np.bool_] | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[ViewMatrix]:
    """The matrices of `views`, with the cells whose weight is at least `min_alpha` of their pixels (and not zero).

    wanted [V, cells]: only these cells, whatever view.
    """
    grid = index.grid
    shape = (len(index), index.n_columns)
    by_cell = sparse.csr_matrix((index.weights, index.columns, index.indptr), shape=shape).tocsc()
    pixels = cell_pixels(index)
    out = []
    for view in views:
        block = by_cell[:, view * grid.cells : (view + 1) * grid.cells].T.tocsr()  # [cells, N]
        weight = np.asarray(block.sum(axis=1)).ravel()
        covered = (weight > 0) & (weight >= min_alpha * pixels)
        cells = np.flatnonzero(covered if wanted is None else covered & wanted[view])
        mean = sparse.diags(1 / weight[cells]) @ block[cells]
        out.append(ViewMatrix(cells, _torch(mean.tocsr(), device, dtype), _torch(mean.T.tocsr(), device, dtype)))
    return out


def cell_pixels(index: LiftingIndex) -> I64:
    """Pixels [cells] of each cell; those at the right and lower border may be cut."""
    grid = index.grid
    high = np.minimum(grid.height - np.arange(grid.rows) * grid.cell, grid.cell)
    wide = np.minimum(grid.width - np.arange(grid.cols) * grid.cell, grid.cell)
    return (high[:, None] * wide[None]).ravel()


def _torch(matrix: sparse.csr_matrix, device: torch.device | None, dtype: torch.dtype) -> Tensor:
    matrix.sort_indices()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR tensor support|invariant checks)")
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int32)),
            torch.from_numpy(matrix.indices.astype(np.int32)),
            torch.from_numpy(matrix.data).to(dtype),
            size=matrix.shape,
            device=device,
        )
