"""Lifting as one sparse matrix W [N Gaussians, V views x cells]: build it from hits, lift 2D features to 3D, render
3D features to 2D.

W[i, (p, c)] is the sum of the blending weights w_i(p, u) = alpha T over the pixels u of cell c in view p. With D the
row sums,

    lift:   F3 = D^-1 W F2          (weighted mean over all pixels of all views in which a Gaussian contributes)
    render: F2 = D'^-1 W^T F3       (D' the column sums)

Sums are stored, never means, so shards and later views can be added. See docs/lifting.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chorus_common.errors import ConfigError, SceneError
from chorus_common.threads import default_threads, run_tasks

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

MORTON_BITS = 21


@dataclass(frozen=True)
class CellGrid:
    """Square cells of `cell` pixels over a width x height picture; the last column and row may be partial."""

    width: int
    height: int
    cell: int

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.cell) < 1:
            raise ConfigError(
                f"cell grid {self.width}x{self.height} with cells of {self.cell} px: all three must be at least 1"
            )

    @property
    def rows(self) -> int:
        return -(-self.height // self.cell)

    @property
    def cols(self) -> int:
        return -(-self.width // self.cell)

    @property
    def cells(self) -> int:
        """Cells per view; cell index = row * cols + column."""
        return self.rows * self.cols


@dataclass(frozen=True, eq=False)
class CellHits:
    """Blending weights of one view, summed per (cell, Gaussian); sorted by (cell, Gaussian id), no pair twice.

    cells [M] i32; gaussian_ids [M] i32 (index into the scene, not Morton order); weights [M] f32, > 0.
    """

    cells: I32
    gaussian_ids: I32
    weights: F32

    def __len__(self) -> int:
        return len(self.cells)


def morton_order(means: NDArray[np.floating]) -> I64:
    """Order [N] of points [N, 3] along a Z-curve: 21 bits per axis over the bounding cube, x lowest bit, ties by index.

    The cube's side is the longest side of the bounding box, so that cells are cubes and not stretched with the scene.
    """
    points = np.asarray(means, np.float64)
    if len(points) == 0:
        return np.zeros(0, np.int64)
    if not np.isfinite(points).all():
        raise SceneError(
            f"centre {int(np.argwhere(~np.isfinite(points).all(1))[0, 0])} is not finite; repair or prune the scene"
        )
    low = points.min(0)
    side = float((points.max(0) - low).max()) or 1.0
    top = 2**MORTON_BITS - 1
    grid = np.minimum((points - low) / side * top, top).astype(np.uint64)
    code = _spread(grid[:, 0]) | (_spread(grid[:, 1]) << np.uint64(1)) | (_spread(grid[:, 2]) << np.uint64(2))
    return np.argsort(code, kind="stable")


def _spread(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The 21 low bits of x, moved to every third bit."""
    for shift, mask in (
        (32, 0x001F00000000FFFF),
        (16, 0x001F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        x = (x | (x << np.uint64(shift))) & np.uint64(mask)
    return x


@dataclass(frozen=True, eq=False)
class LiftingIndex:
    """W in CSR by Gaussian. Row r belongs to Gaussian order[r]; rows of a whole scene are in Morton order.

    order [R] i64; indptr [R + 1] i64; columns [nnz] i32 = view * grid.cells + cell, ascending in each row; weights
    [nnz] f32 > 0.
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
            _count_rows(hits.gaussian_ids, row_of, counts)
        indptr = np.cumsum(counts)
        columns, weights = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
        cursor = indptr[:-1].copy()
        if (
            len(hits_per_view) * grid.cells <= np.iinfo(np.int32).max
        ):  # otherwise the constructor below says what is wrong
            for view, hits in enumerate(hits_per_view):
                base = view * grid.cells
                _scatter_hits(hits.cells, hits.gaussian_ids, hits.weights, row_of, base, cursor, columns, weights)
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

        features [V * cells, C] (view-major); rows: which matrix rows (a slice of step 1, default all); column_mask [V
            * cells]: False leaves a cell out of both sums. A row without evidence has weight 0: it is flagged, its
            sums mean nothing.
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
                _gather_sums, self.indptr, self.columns, self.weights, values, mask, masked, a, b, begin, sums, weight
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
            partial(_gather_sums, indptr, rows, weights, source, none, False, a, b, 0, sums, weight)
            for a, b in _balanced(indptr, 0, self.n_columns)
        ]
        run_tasks(tasks, default_threads())
        sums /= np.where(weight > 0, weight, 1)[:, None]
        return sums, weight

    def row_slice(self, a: int, b: int) -> LiftingIndex:
        """The index of matrix rows a..b-1 alone (a crop is such a slice: neighbours in space are neighbours in Morton
        order)."""
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
        indptr, columns, weights = _keep_views(self.indptr, self.columns, self.weights, new_view, self.grid.cells)
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
        _interleave(
            a.indptr, a.columns, a.weights, b.indptr, b.columns, b.weights, a.n_columns, indptr, columns, weights
        )
        return LiftingIndex(a.order, indptr, columns, weights, a.grid, a.n_views + b.n_views)

    def evidence(self) -> tuple[F32, I32]:
        """Per matrix row: (weight [R] f32 = row sum, n_views [R] i32 = distinct views with a hit). 0 views means no
        evidence."""
        weight, n_views = np.empty(len(self), np.float32), np.empty(len(self), np.int32)
        _row_evidence(self.indptr, self.columns, self.weights, self.grid.cells, weight, n_views)
        return weight, n_views

    @cached_property
    def _by_column(self) -> tuple[I64, I32, F32]:
        """The transposed matrix (indptr [V * cells + 1], rows [nnz], weights [nnz]), rows ascending in each column."""
        return _transpose(self.indptr, self.columns, self.weights, self.n_columns)

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


@njit(nogil=True, cache=True, error_model="numpy")
def _count_rows(gaussian_ids: I32, row_of: I64, counts: I64) -> None:
    """counts [N + 1]: add one at row + 1 for every hit."""
    for i in range(len(gaussian_ids)):
        counts[row_of[gaussian_ids[i]] + 1] += 1


@njit(nogil=True, cache=True, error_model="numpy")
def _scatter_hits(
    cells: I32, gaussian_ids: I32, hit_weights: F32, row_of: I64, base: int, cursor: I64, columns: I32, weights: F32
) -> None:
    """Append one view's hits to their rows; hits come by ascending cell, so columns stay ascending in every row."""
    for i in range(len(cells)):
        row = row_of[gaussian_ids[i]]
        k = cursor[row]
        columns[k] = base + cells[i]
        weights[k] = hit_weights[i]
        cursor[row] = k + 1


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def _gather_sums(
    indptr: I64,
    columns: I32,
    weights: F32,
    features: F32,
    mask: NDArray[np.bool_],
    masked: bool,
    begin: int,
    end: int,
    origin: int,
    sums: F32,
    total: F32,
) -> None:
    """sums[r - origin] = sum of weights[k] * features[columns[k]] over the entries k of row r, in order, for rows
    begin..end-1.

    Four entries per pass over the channels, the first of which writes and does not read: rows with few entries, the
    common case, touch the output once. The order of additions is fixed by the data.
    """
    channels = features.shape[1]
    chosen = np.zeros(4, np.int64)
    scale = np.zeros(4, np.float32)
    for r in range(begin, end):
        out = sums[r - origin]
        row_total = 0.0
        fresh = True
        n = 0
        k, stop = indptr[r], indptr[r + 1]
        while k < stop or n > 0:
            while k < stop and n < 4:
                if not masked or mask[columns[k]]:
                    chosen[n] = columns[k]
                    scale[n] = weights[k]
                    row_total += weights[k]
                    n += 1
                k += 1
            if n == 0:
                break
            for j in range(n, 4):  # fill up with nothing
                chosen[j] = chosen[0]
                scale[j] = 0
            f0, f1, f2, f3 = features[chosen[0]], features[chosen[1]], features[chosen[2]], features[chosen[3]]
            w0, w1, w2, w3 = scale[0], scale[1], scale[2], scale[3]
            if fresh:
                for c in range(channels):
                    out[c] = (w0 * f0[c] + w1 * f1[c]) + (w2 * f2[c] + w3 * f3[c])
            else:
                for c in range(channels):
                    out[c] += (w0 * f0[c] + w1 * f1[c]) + (w2 * f2[c] + w3 * f3[c])
            fresh = False
            n = 0
        if fresh:
            out[:] = 0
        total[r - origin] = row_total


@njit(nogil=True, cache=True, error_model="numpy")
def _transpose(indptr: I64, columns: I32, weights: F32, n_columns: int) -> tuple[I64, I32, F32]:
    """CSR to CSC by a counting sort; rows ascend within each column."""
    start = np.zeros(n_columns + 1, np.int64)
    for k in range(len(columns)):
        start[columns[k] + 1] += 1
    for c in range(n_columns):
        start[c + 1] += start[c]
    cursor = start[:-1].copy()
    rows, out = np.empty(len(columns), np.int32), np.empty(len(columns), np.float32)
    for r in range(len(indptr) - 1):
        for k in range(indptr[r], indptr[r + 1]):
            at = cursor[columns[k]]
            rows[at] = r
            out[at] = weights[k]
            cursor[columns[k]] = at + 1
    return start, rows, out


@njit(nogil=True, cache=True, error_model="numpy")
def _keep_views(indptr: I64, columns: I32, weights: F32, new_view: I32, cells: int) -> tuple[I64, I32, F32]:
    """Rows without the entries whose view maps to -1, the others renumbered."""
    kept = np.zeros(len(indptr), np.int64)
    out_columns, out_weights = np.empty(len(columns), np.int32), np.empty(len(columns), np.float32)
    n = 0
    for r in range(len(indptr) - 1):
        for k in range(indptr[r], indptr[r + 1]):
            view = new_view[columns[k] // cells]
            if view >= 0:
                out_columns[n] = view * cells + columns[k] % cells
                out_weights[n] = weights[k]
                n += 1
        kept[r + 1] = n
    return kept, out_columns[:n].copy(), out_weights[:n].copy()


@njit(nogil=True, cache=True, error_model="numpy")
def _interleave(
    ptr_a: I64,
    columns_a: I32,
    weights_a: F32,
    ptr_b: I64,
    columns_b: I32,
    weights_b: F32,
    shift: int,
    indptr: I64,
    columns: I32,
    weights: F32,
) -> None:
    """Row by row: a's entries, then b's with their columns shifted."""
    for r in range(len(indptr) - 1):
        n = indptr[r]
        for k in range(ptr_a[r], ptr_a[r + 1]):
            columns[n], weights[n] = columns_a[k], weights_a[k]
            n += 1
        for k in range(ptr_b[r], ptr_b[r + 1]):
            columns[n], weights[n] = columns_b[k] + shift, weights_b[k]
            n += 1


@njit(nogil=True, cache=True, error_model="numpy")
def _row_evidence(indptr: I64, columns: I32, weights: F32, cells: int, weight: F32, n_views: I32) -> None:
    """Row sums (added in float64) and the number of distinct views, which are runs because columns ascend."""
    for r in range(len(indptr) - 1):
        total, views, last = 0.0, 0, -1
        for k in range(indptr[r], indptr[r + 1]):
            total += weights[k]
            view = columns[k] // cells
            if view != last:
                views += 1
                last = view
        weight[r] = total
        n_views[r] = views
