"""Masks on cells, and W^T F with its gradient."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chorus_common.lifting import CellGrid
from chorus_common.runtime.errors import CacheError
from stage2_distill.fields.regions import borrow_levels, cell_majority, read_regions, rows_of_views
from stage2_distill.fields.rendering import cell_pixels, view_matrices
from tests.stage2.fields.field_scene import make_field_index, make_masks


def slow_majority(ids: np.ndarray, grid: CellGrid, min_share: float) -> list[int]:
    height, width = ids.shape
    found: list[Counter[int]] = [Counter() for _ in range(grid.cells)]
    for y in range(height):
        for x in range(width):
            row = int((y + 0.5) * grid.height / height) // grid.cell
            col = int((x + 0.5) * grid.width / width) // grid.cell
            found[row * grid.cols + col][int(ids[y, x])] += 1
    out = []
    for counts in found:
        best = max(counts, key=lambda k: (counts[k], -k)) if counts else -1
        out.append(best if counts and counts[best] >= min_share * counts.total() else -1)
    return out


@given(st.integers(3, 13), st.integers(3, 13), st.sampled_from([1, 2]), st.integers(0, 999))
def test_majority_of_a_cell_equals_counting(width: int, height: int, scale: int, seed: int) -> None:
    grid = CellGrid(width, height, 4)
    ids = np.random.default_rng(seed).integers(-1, 3, (height * scale, width * scale))
    for share in (0.0, 0.5):
        assert cell_majority(ids, grid, share).tolist() == slow_majority(ids, grid, share)


def test_masks_of_views_and_levels_never_share_a_number() -> None:
    index = make_field_index()
    store = make_masks(index)
    regions = read_regions(store, "masks", index.grid)
    seen = [set(regions.masks[v, :, k].tolist()) for v in range(index.n_views) for k in range(3)]
    assert sum(map(len, seen)) == len(set().union(*seen)) == len(regions.embeddings)
    view, cell = 1, 17
    row = regions.masks[view, cell, 1]
    ids = store.ids["part"][view].reshape(index.grid.rows, 4, index.grid.cols, 4).transpose(0, 2, 1, 3)
    own = ids.reshape(index.grid.cells, -1)[cell, 0]
    assert np.array_equal(regions.embeddings[row], store.embeddings["part"][store.offsets["part"][view] + own])


def test_cells_without_a_mask_at_one_level_borrow_it_or_are_not_supervised() -> None:
    index = make_field_index()
    store = make_masks(index)
    store.ids["subpart"][0, :4, :4] = -1
    regions = read_regions(store, "masks", index.grid, borrow=False)
    assert not regions.complete[0, 0]
    assert regions.complete.sum() == regions.complete.size - 1
    borrowed = read_regions(store, "masks", index.grid)
    assert borrowed.complete.all()
    assert borrowed.masks[0, 0, 2] == regions.masks[0, 0, 1]
    assert np.array_equal(borrowed.masks[1:], regions.masks[1:])


@given(seed=st.integers(0, 2**32 - 1), levels=st.integers(1, 4))
def test_a_level_borrows_from_the_nearest_that_has_a_mask(seed: int, levels: int) -> None:
    """Against a search, cell by cell and level by level."""
    rng = np.random.default_rng(seed)
    masks = np.where(rng.random((2, 6, levels)) < 0.5, -1, rng.integers(0, 9, (2, 6, levels))).astype(np.int32)
    borrowed = borrow_levels(masks)
    for place in np.ndindex(2, 6):
        there = [k for k in range(levels) if masks[place][k] >= 0]
        for level in range(levels):
            nearest = min(there, key=lambda k: (abs(k - level), -k), default=None)
            assert borrowed[place][level] == (-1 if nearest is None else masks[place][nearest])


def test_missing_masks_and_embeddings_are_named() -> None:
    index = make_field_index()
    store = make_masks(index)
    with pytest.raises(CacheError, match=r"scene a: no mask teacher 'sam'; it has masks"):
        read_regions(store, "sam", index.grid, scene="a")
    bare = replace(store, embeddings={k: v for k, v in store.embeddings.items() if k != "part"})
    with pytest.raises(CacheError, match="no embeddings at level part"):
        read_regions(bare, "masks", index.grid)
    short = replace(store, offsets={**store.offsets, "whole": np.array([0, 1, 2, 3])})
    with pytest.raises(CacheError, match="masks without embedding at level whole"):
        read_regions(short, "masks", index.grid)
    with pytest.raises(CacheError, match="no view 'c'"):
        rows_of_views(("a", "b"), ("b", "c"))


def test_rendering_equals_the_index_and_its_gradient_equals_lifting() -> None:
    index = make_field_index()
    features = np.random.default_rng(0).standard_normal((len(index), 5)).astype(np.float32)
    values, weight = index.render(features)
    cells = index.grid.cells
    gradient = np.zeros((len(index), 5))
    for view, matrix in enumerate(view_matrices(index, range(index.n_views), min_alpha=0.05)):
        own = weight[view * cells : (view + 1) * cells]
        assert np.array_equal(matrix.cells, np.flatnonzero(own >= 0.05 * cell_pixels(index)))
        leaf = torch.from_numpy(features).requires_grad_()
        rendered = matrix.render(leaf)
        want = values[view * cells : (view + 1) * cells][matrix.cells]
        np.testing.assert_allclose(rendered.detach().numpy(), want, atol=1e-5)
        given_ = torch.randn(rendered.shape, generator=torch.Generator().manual_seed(view))
        rendered.backward(given_)
        spread = np.zeros((index.n_columns, 5), np.float32)
        spread[view * cells + matrix.cells] = given_.numpy() / own[matrix.cells, None]
        assert leaf.grad is not None
        np.testing.assert_allclose(leaf.grad.numpy(), index.lift(spread)[0], atol=1e-4)
        gradient += leaf.grad.numpy()
    assert np.abs(gradient).max() > 0


def test_gradient_of_rendering_in_float64() -> None:
    index = make_field_index(n=40)
    matrix = view_matrices(index, [0], min_alpha=0.0, dtype=torch.float64)[0]
    leaf = torch.randn(len(index), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(matrix.render, (leaf.requires_grad_(),))


def test_wanted_cells_alone_are_rendered() -> None:
    index = make_field_index()
    wanted = np.zeros((index.n_views, index.grid.cells), bool)
    every = view_matrices(index, [1], min_alpha=0.0)[0]
    wanted[1, every.cells[::2]] = True
    assert np.array_equal(view_matrices(index, [1], min_alpha=0.0, wanted=wanted)[0].cells, every.cells[::2])
