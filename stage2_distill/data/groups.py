"""Groups for the contrastive terms: which pixels one mask holds together, which voxels one label does."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from chorus_common.lifting import CellGrid, LiftingIndex
from stage2_distill.data.batch import LabelGroups, MaskGroups
from stage2_distill.settings import MaskContrastSettings
from stage2_distill.sparse_rows import SparseRows

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
F32 = NDArray[np.float32]


def cell_masks(ids: I32, grid: CellGrid, purity: float) -> I32:
    """The mask [V, cells] i32 that holds at least `purity` (> 1/2) of a cell's pixels; -1 where none does.

    Args:
        ids: [V, H, W] mask of each pixel, -1 = none; any resolution, a pixel belongs to the cell under its centre.
    """
    views, height, width = ids.shape
    row = ((np.arange(height) + 0.5) * grid.height / height // grid.cell).astype(np.int64)
    col = ((np.arange(width) + 0.5) * grid.width / width // grid.cell).astype(np.int64)
    cell = row[:, None] * grid.cols + col
    pixels = np.bincount(cell.ravel(), minlength=grid.cells)
    out = np.full((views, grid.cells), -1, dtype=np.int32)
    for view in range(views):
        wide = int(ids[view].max(initial=-1)) + 1
        if wide == 0:
            continue
        inside = ids[view] >= 0
        key = cell[inside] * wide + ids[view][inside]
        count = np.bincount(key, minlength=grid.cells * wide).reshape(grid.cells, wide)
        best = count.argmax(1)
        pure = count[np.arange(grid.cells), best] >= np.maximum(purity * pixels, 1)
        out[view, pure] = best[pure]
    return out


def cell_areas(grid: CellGrid) -> I64:
    """Pixels of every cell [cells]; the last row and column may be cut."""
    rows = np.diff(np.minimum(np.arange(grid.rows + 1) * grid.cell, grid.height))
    cols = np.diff(np.minimum(np.arange(grid.cols + 1) * grid.cell, grid.width))
    return (rows[:, None] * cols).ravel()


def pixel_rows(index: LiftingIndex, columns: I64, voxel: I64, n_voxels: int) -> SparseRows:
    """What the cells `columns` (ascending, each with some weight) show, as weighted means over voxels.

    Args:
        index: rows are Gaussians. voxel: [R] voxel of each Gaussian.
    """
    weights = sparse.csr_matrix(
        (index.weights, index.columns, index.indptr), shape=(len(index), index.n_columns), copy=False
    )
    chosen = weights[:, columns].tocoo()
    shown = sparse.csr_matrix((chosen.data, (chosen.col, voxel[chosen.row])), shape=(len(columns), n_voxels))
    total = np.maximum(np.asarray(shown.sum(1)).ravel(), 1e-12)
    return SparseRows.of(sparse.csr_matrix(sparse.diags((1 / total).astype(np.float32)) @ shown))


def cell_cover(index: LiftingIndex) -> F32:
    """Blending weight per pixel [V * cells] that the index's Gaussians hold: 1 where they hide everything behind."""
    held = np.bincount(index.columns, weights=index.weights, minlength=index.n_columns)
    return (held / np.tile(cell_areas(index.grid), index.n_views)).astype(np.float32)


def mask_groups(
    index: LiftingIndex,
    masks: I32,
    voxel: I64,
    n_voxels: int,
    settings: MaskContrastSettings,
    rng: np.random.Generator,
) -> MaskGroups | None:
    """Draw the pixels of a sample that are compared; None where no view shows two masks.

    Args:
        index: the sample's Gaussians, the drawn views. masks: [V, cells] of these views (`cell_masks`).
    """
    usable = (masks >= 0) & (cell_cover(index).reshape(masks.shape) >= max(settings.cover, 1e-6))
    columns: list[I64] = []
    group: list[I64] = []
    context: list[I64] = []
    n_groups = 0
    for view in range(len(masks)):
        cells = drawn_cells(np.where(usable[view], masks[view], -1), settings.per_mask, settings.pixels, rng)
        ids, own = np.unique(masks[view, cells], return_inverse=True)
        if len(ids) < 2:
            continue
        group.append(own + n_groups)
        n_groups += len(ids)
        context.append(np.full(len(cells), len(context)))
        columns.append(view * index.grid.cells + cells)
    if not columns:
        return None
    return MaskGroups(
        pixel_rows(index, np.concatenate(columns), voxel, n_voxels),
        torch.from_numpy(np.concatenate(group)),
        torch.from_numpy(np.concatenate(context)),
        torch.zeros(len(context), dtype=torch.int64),
    )


def drawn_cells(masks: I32, per_mask: int, at_most: int, rng: np.random.Generator) -> I64:
    """Ascending cells, at most `per_mask` of each mask and `at_most` in all, drawn without replacement; masks that are
    left with one cell go.
    """
    cells = rng.permutation(np.flatnonzero(masks >= 0))
    cells = cells[np.argsort(masks[cells], kind="stable")]  # by mask, shuffled within
    own = masks[cells]
    start = np.flatnonzero(np.diff(own, prepend=-1))
    place = np.arange(len(own)) - np.repeat(start, np.diff(np.append(start, len(own))))
    cells = rng.permutation(cells[place < per_mask])[:at_most]
    count = np.bincount(masks[cells], minlength=1)
    return np.sort(cells[count[masks[cells]] > 1])


def label_groups(labels: I32, voxel: I64, n_voxels: int, min_rows: int, rng: np.random.Generator) -> LabelGroups | None:
    """Random halves of the voxels of every label with at least `min_rows`; None where less than two labels have.

    A voxel has the label of most of its labelled Gaussians, the lowest among equals.

    Args:
        labels: [n] per Gaussian, -1 = unknown. voxel: [n].
    """
    known = labels >= 0
    if not known.any():
        return None
    ids, own = np.unique(labels[known], return_inverse=True)
    votes = sparse.csr_matrix((np.ones(len(own), np.int64), (voxel[known], own)), shape=(n_voxels, len(ids)))
    has = np.flatnonzero(np.diff(votes.indptr))
    label = np.asarray(votes[has].argmax(axis=1)).ravel()
    kept = np.flatnonzero(np.bincount(label, minlength=len(ids)) >= min_rows)
    if len(kept) < 2:
        return None
    rows, columns = [], []
    for k, group in enumerate(kept):
        members = rng.permutation(has[label == group])
        rows.append(2 * k + (np.arange(len(members)) % 2))
        columns.append(members)
    row, column = np.concatenate(rows), np.concatenate(columns)
    halves = sparse.csr_matrix((np.ones(len(row), np.float32), (row, column)), shape=(2 * len(kept), n_voxels))
    return LabelGroups(SparseRows.of(halves), torch.zeros(len(kept), dtype=torch.int64))
