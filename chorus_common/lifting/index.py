"""The sparse matrix of one scene: build it from hits, lift, render, cut it by rows and views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from chorus_common.lifting.cells import CellGrid, CellHits
from chorus_common.lifting.kernels import (
    count_rows,
    gather_sums,
    interleave,
    keep_views,
    row_visibility,
    scatter_hits,
    transpose,
)
from chorus_common.lifting.morton import morton_order
from chorus_common.runtime.errors import ConfigError, SceneError
from chorus_common.runtime.threads import default_threads, run_tasks

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LiftingIndex:
    """W in CSR by Gaussian. Row r belongs to Gaussian order[r]; rows of a whole scene are in Morton order.

    order [R] i64; indptr [R + 1] i64; columns [nnz] i32 = view * grid.cells + cell, ascending in each row; weights
    [nnz] f32 > 0.

    >>> from chorus_common.lifting.cells import CellHits
    >>> seen = CellHits(np.array([0, 1, 1]), np.array([0, 0, 1]), np.array([0.25, 0.75, 0.5], np.float32))
    >>> index = LiftingIndex.build([seen], np.array([[0.0, 0, 0], [1.0, 0, 0]]), CellGrid(2, 1, 1))
    >>> sums, weight = index.lift(np.array([[1.0], [5.0]]))  # one feature per cell
    >>> (sums / weight[:, None]).ravel()  # 0.25 * 1 + 0.75 * 5, and 5
    array([4., 5.], dtype=float32)
    """

    order: I64
    indptr: I64
    columns: I32
    weights: F32
    grid: CellGrid
    n_views: int

    def __post_init__(self) -> None:
        if self.n_columns > np.iinfo(np.int32).max:
            raise ConfigError(
                f"{self.n_views} views of {self.grid.cells} cells exceed 2^31 columns; use larger cells or fewer views"
            )
        for key, dtype in (("order", np.int64), ("indptr", np.int64), ("columns", np.int32), ("weights", np.float32)):
            object.__setattr__(self, key, np.ascontiguousarray(getattr(self, key), dtype))
        rows, nnz = len(self.order), len(self.columns)
        fits = self.indptr.shape == (rows + 1,) and self.weights.shape == (nnz,)
        if not fits or self.indptr[0] != 0 or self.indptr[-1] != nnz or (np.diff(self.indptr) < 0).any():
            raise SceneError(
                f"lifting index: {rows} rows, {nnz} columns, {len(self.weights)} weights do not fit their row pointers"
            )
        if nnz and (self.columns.min() < 0 or self.columns.max() >= self.n_columns):
            raise SceneError(f"lifting index: columns outside 0..{self.n_columns - 1}")

    @staticmethod
    def build(hits_per_view: Sequence[CellHits], means: NDArray[np.floating], grid: CellGrid) -> LiftingIndex:
        """The index of all views of one scene with centres `means` [N, 3]; hits_per_view[p] belongs to view p."""
        order = morton_order(means)
        n = len(order)
        for view, hits in enumerate(hits_per_view):
            if len(hits) and not (hits.gaussian_ids.min() >= 0 and hits.gaussian_ids.max() < n):
                raise SceneError(
                    f"view {view}: hits name Gaussians outside 0..{n - 1}; were they rendered from this scene?"
                )
            if len(hits) and not (hits.cells.min() >= 0 and hits.cells.max() < grid.cells):
                raise SceneError(
                    f"view {view}: hits name cells outside 0..{grid.cells - 1}; were they rendered with this grid?"
                )
        row_of = np.empty(n, np.int64)
        row_of[order] = np.arange(n)
        counts = np.zeros(n + 1, np.int64)
        for hits in hits_per_view:
            count_rows(hits.gaussian_ids, row_of, counts)
        indptr = np.cumsum(counts)
        columns, weights = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
        cursor = indptr[:-1].copy()
        if len(hits_per_view) * grid.cells <= np.iinfo(np.int32).max:  # or else the constructor raises
            for view, hits in enumerate(hits_per_view):
                base = view * grid.cells
                scatter_hits(hits.cells, hits.gaussian_ids, hits.weights, row_of, base, cursor, columns, weights)
        return LiftingIndex(order, indptr, columns, weights, grid, len(hits_per_view))

    @property
    def n_columns(self) -> int:
        return self.n_views * self.grid.cells

    def __len__(self) -> int:
        return len(self.order)

    def lift(
        self, features: NDArray[np.floating], rows: slice | None = None, column_mask: NDArray[np.bool_] | None = None
    ) -> tuple[F32, F32]:
        """Weighted sums of 2D features per Gaussian: (sums [R, C] f32, weight [R] f32); the lifted feature is sums /
        weight.

        features [V * cells, C] (view-major); rows: which matrix rows (a slice of step 1, default all);
        column_mask [V * cells]: False leaves a cell out of both sums. A row that no view sees has weight 0; its sums
        mean nothing.
        """
        values = self._checked(features, self.n_columns, "lift needs one row per (view, cell)")
        begin, end, step = (rows or slice(None)).indices(len(self))
        if step != 1:
            raise ConfigError("lift takes contiguous rows; use a slice without a step")
        end = max(begin, end)
        masked = column_mask is not None
        mask = np.ascontiguousarray(column_mask if column_mask is not None else np.ones(0, np.bool_), np.bool_)
        if masked and mask.shape != (self.n_columns,):
            raise ConfigError(f"column mask has shape {mask.shape}, the lifting index has {self.n_columns} columns")
        sums, weight = np.empty((end - begin, values.shape[1]), np.float32), np.empty(end - begin, np.float32)
        tasks = [
            partial(
                gather_sums, self.indptr, self.columns, self.weights, values, mask, masked, a, b, begin, sums, weight
            )
            for a, b in _balanced(self.indptr, begin, end)
        ]
        run_tasks(tasks, default_threads())
        return sums, weight

    def render(self, features: NDArray[np.floating]) -> tuple[F32, F32]:
        """Per-Gaussian features seen from all views: (values [V * cells, C] f32, weight [V * cells] f32).

        features [R, C] in matrix-row order. values = W^T features / weight, the weighted mean per cell; 0 in cells of
        weight 0.
        """
        source = self._checked(features, len(self), "render needs one row per matrix row")
        indptr, rows, weights = self._by_column
        sums, weight = np.empty((self.n_columns, source.shape[1]), np.float32), np.empty(self.n_columns, np.float32)
        none = np.ones(0, np.bool_)
        tasks = [
            partial(gather_sums, indptr, rows, weights, source, none, False, a, b, 0, sums, weight)
            for a, b in _balanced(indptr, 0, self.n_columns)
        ]
        run_tasks(tasks, default_threads())
        sums /= np.where(weight > 0, weight, 1)[:, None]
        return sums, weight

    def row_slice(self, a: int, b: int) -> LiftingIndex:
        """The index of matrix rows a..b-1 alone (a crop is such a slice: neighbours in space are neighbours in Morton
        order).
        """
        a, b, _ = slice(a, b).indices(len(self))
        b = max(a, b)
        i, j = self.indptr[a], self.indptr[b]
        return replace(
            self,
            order=self.order[a:b],
            indptr=self.indptr[a : b + 1] - i,
            columns=self.columns[i:j],
            weights=self.weights[i:j],
        )

    def select_views(self, views: Sequence[int] | NDArray[np.integer]) -> LiftingIndex:
        """The index of the given views alone (ascending); view views[k] becomes view k."""
        chosen = np.asarray(views, np.int64)
        if len(chosen) and (chosen[0] < 0 or chosen[-1] >= self.n_views or (np.diff(chosen) <= 0).any()):
            raise ConfigError(f"views must be ascending and lie in 0..{self.n_views - 1}")
        new_view = np.full(self.n_views, -1, np.int32)
        new_view[chosen] = np.arange(len(chosen), dtype=np.int32)
        indptr, columns, weights = keep_views(self.indptr, self.columns, self.weights, new_view, self.grid.cells)
        return replace(self, indptr=indptr, columns=columns, weights=weights, n_views=len(chosen))

    @staticmethod
    def concat_views(a: LiftingIndex, b: LiftingIndex) -> LiftingIndex:
        """One index over a's views followed by b's; both of the same scene and grid."""
        if a.grid != b.grid or not np.array_equal(a.order, b.order):
            raise SceneError("lifting indices of different scenes or cell grids cannot be joined")
        if a.n_columns + b.n_columns > np.iinfo(np.int32).max:
            raise ConfigError(
                f"{a.n_views + b.n_views} views of {a.grid.cells} cells exceed 2^31 columns; use larger cells"
            )
        indptr = a.indptr + b.indptr
        columns, weights = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
        interleave(
            a.indptr, a.columns, a.weights, b.indptr, b.columns, b.weights, a.n_columns, indptr, columns, weights
        )
        return LiftingIndex(a.order, indptr, columns, weights, a.grid, a.n_views + b.n_views)

    def visibility(self) -> tuple[F32, I32]:
        """Per matrix row: (weight [R] f32 = row sum, n_views [R] i32 = distinct views with a hit). 0 views: nothing
        saw the Gaussian.
        """
        weight, n_views = np.empty(len(self), np.float32), np.empty(len(self), np.int32)
        row_visibility(self.indptr, self.columns, self.weights, self.grid.cells, weight, n_views)
        return weight, n_views

    @cached_property
    def _by_column(self) -> tuple[I64, I32, F32]:
        """The transposed matrix (indptr [V * cells + 1], rows [nnz], weights [nnz]), rows ascending in each column."""
        return transpose(self.indptr, self.columns, self.weights, self.n_columns)

    @staticmethod
    def _checked(features: NDArray[np.floating], rows: int, need: str) -> F32:
        values = np.ascontiguousarray(features, np.float32)
        if values.ndim != 2 or len(values) != rows:
            raise ConfigError(f"{need}: expected [{rows}, C], got {list(values.shape)}")
        return values


def _balanced(indptr: I64, begin: int, end: int, target: int = 1 << 14) -> list[tuple[int, int]]:
    """[begin, end) cut into ranges of about `target` stored entries; the cuts depend on the data alone."""
    if end <= begin:
        return []
    first, last = int(indptr[begin]), int(indptr[end])
    parts = max(1, min(-(-(last - first) // target), 512))
    marks = first + (last - first) * np.arange(1, parts) // parts
    cuts = np.unique(np.clip(np.concatenate([[begin], np.searchsorted(indptr, marks), [end]]), begin, end))
    return list(zip(cuts[:-1].tolist(), cuts[1:].tolist())) or [(begin, end)]
