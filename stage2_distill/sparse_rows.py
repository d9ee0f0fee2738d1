"""SparseRows: weighted sums of a batch's rows as one sparse product, with a backward pass that is one, too.

What a pixel shows is such a sum (the transposed lifting matrix), and so is a mask's or a class's pool. Both directions
run over sorted entries, so that sums have a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SparseRows:
    """A sparse matrix [R, width] in CSR form: indptr [R + 1] i64, columns [nnz] i64, weights [nnz] f32."""

    indptr: Tensor
    columns: Tensor
    weights: Tensor
    width: int

    @staticmethod
    def of(matrix: sparse.csr_matrix) -> SparseRows:
        """The same matrix; entries of one place are added, columns sorted."""
        matrix.sum_duplicates()
        return SparseRows(
            torch.from_numpy(matrix.indptr.astype(np.int64)),
            torch.from_numpy(matrix.indices.astype(np.int64)),
            torch.from_numpy(matrix.data.astype(np.float32)),
            matrix.shape[1],
        )

    @staticmethod
    def concatenate(parts: Sequence[SparseRows]) -> SparseRows:
        """Block diagonal: rows of every part, over its own columns."""
        indptr, columns = [parts[0].indptr.new_zeros(1)], []
        width = entries = 0
        for part in parts:
            indptr.append(part.indptr[1:] + entries)
            columns.append(part.columns + width)
            width, entries = width + part.width, entries + len(part.columns)
        return SparseRows(torch.cat(indptr), torch.cat(columns), torch.cat([p.weights for p in parts]), width)

    @staticmethod
    def stack(parts: Sequence[SparseRows]) -> SparseRows:
        """Rows of every part, all over the same columns."""
        ends = np.cumsum([0] + [len(p.columns) for p in parts]).tolist()
        return SparseRows(
            torch.cat([parts[0].indptr[:1], *(p.indptr[1:] + a for p, a in zip(parts, ends))]),
            torch.cat([p.columns for p in parts]),
            torch.cat([p.weights for p in parts]),
            parts[0].width,
        )

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __matmul__(self, values: Tensor) -> Tensor:
        """Weighted sums [R, C] f32 of `values` [width, C], with gradient."""
        with torch.autocast(values.device.type, enabled=False):
            return _SparseProduct.apply(values.float(), self._matrix, self._transposed)

    @cached_property
    def _rows(self) -> Tensor:
        rows = torch.arange(len(self), device=self.indptr.device)
        return torch.repeat_interleave(rows, self.indptr.diff(), output_size=len(self.columns))

    @cached_property
    def _matrix(self) -> Tensor:
        return _coo(self._rows, self.columns, self.weights, (len(self), self.width))

    @cached_property
    def _transposed(self) -> Tensor:
        order = torch.argsort(self.columns, stable=True)
        return _coo(self.columns[order], self._rows[order], self.weights[order], (self.width, len(self)))


def _coo(rows: Tensor, columns: Tensor, weights: Tensor, shape: tuple[int, int]) -> Tensor:
    return torch.sparse_coo_tensor(
        torch.stack([rows, columns]), weights, shape, is_coalesced=True, check_invariants=False
    )


class _SparseProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.transposed = transposed
        return torch.sparse.mm(matrix, values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return torch.sparse.mm(ctx.transposed, grad.contiguous()), None, None
