"""Contrastive terms and their groups against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from chorus_common.lifting import CellGrid, LiftingIndex
from chorus_common.runtime.errors import ConfigError
from stage2_distill.data.augment import AugmentConfig
from stage2_distill.data.batch import Batch, LabelGroups, MaskGroups, collate
from stage2_distill.data.dataset import CacheDataset
from stage2_distill.data.groups import cell_areas, cell_masks, drawn_cells, label_groups, mask_groups, pixel_rows
from stage2_distill.encoder import EncoderConfig
from stage2_distill.encoder.config import InputConfig
from stage2_distill.losses.distillation import cloud_shares, distillation_loss
from stage2_distill.losses.label_contrast import aggregated_contrast, label_contrast
from stage2_distill.losses.mask_contrast import info_nce, mask_contrast
from stage2_distill.settings import DataSettings, LabelContrastSettings, MaskContrastSettings, TeacherSettings
from stage2_distill.sparse_rows import SparseRows
from tests.stage2.store_fakes import GRID, MemoryStore, add_masks, make_entries

ENCODER = EncoderConfig(inputs=InputConfig(grid_size=0.1))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def plain_info_nce(x: np.ndarray, group: np.ndarray, temperature: float) -> float:
    """One anchor and one positive at a time, in float64."""
    losses = []
    for i in range(len(x)):
        partners = [j for j in range(len(x)) if j != i and group[j] == group[i]]
        if not partners:
            continue
        below = sum(math.exp(cosine(x[i], x[a]) / temperature) for a in range(len(x)) if a != i)
        terms = [math.log(math.exp(cosine(x[i], x[p]) / temperature) / below) for p in partners]
        losses.append(-sum(terms) / len(terms))
    return sum(losses) / len(losses) if losses else 0.0


def random_rows(rng: np.random.Generator, rows: int, width: int) -> sparse.csr_matrix:
    return sparse.random(rows, width, 0.4, "csr", dtype=np.float64, rng=rng) + sparse.csr_matrix(
        (np.ones(rows), (np.arange(rows), np.arange(rows) % width)), shape=(rows, width)
    )


@pytest.mark.parametrize("temperature", [0.07, 0.1, 1.0])
def test_info_nce_equals_plain_loops(temperature: float) -> None:
    rng = np.random.default_rng(0)
    x, group = rng.standard_normal((30, 6)), np.append(rng.integers(4, size=29), 9)  # the last is alone
    found = info_nce(torch.from_numpy(x), torch.from_numpy(group), temperature)
    assert found.item() == pytest.approx(plain_info_nce(x, group, temperature), rel=1e-5)


def test_info_nce_without_pairs_is_zero_with_a_gradient() -> None:
    x = torch.randn(5, 3, requires_grad=True)
    info_nce(x, torch.arange(5), 0.1).backward()
    assert x.grad is not None
    assert (x.grad == 0).all()


def test_sparse_rows_are_dense_products_both_ways() -> None:
    rng = np.random.default_rng(1)
    matrices = [random_rows(rng, rows, width) for rows, width in ((4, 7), (3, 5))]
    joined = SparseRows.concatenate([SparseRows.of(m) for m in matrices])
    dense = torch.from_numpy(sparse.block_diag(matrices).toarray()).float()
    values = torch.randn(12, 3, requires_grad=True)
    grad = torch.randn(7, 3)
    out = joined @ values
    torch.testing.assert_close(out, dense @ values.detach(), atol=1e-5, rtol=1e-5)
    out.backward(grad)
    torch.testing.assert_close(values.grad, dense.T @ grad, atol=1e-5, rtol=1e-5)


def test_mask_contrast_is_the_mean_over_clouds_of_the_mean_over_views() -> None:
    rng = np.random.default_rng(2)
    matrix = random_rows(rng, 18, 25)
    group = np.concatenate([rng.integers(0, 3, 6), rng.integers(3, 6, 7), rng.integers(6, 8, 5)])
    context = np.repeat([0, 1, 2], [6, 7, 5])
    masks = MaskGroups(SparseRows.of(matrix), *map(torch.from_numpy, (group, context, np.array([0, 0, 2]))))
    features = rng.standard_normal((25, 4))
    shown = matrix.toarray() @ features
    views = [plain_info_nce(shown[context == c], group[context == c], 0.1) for c in range(3)]
    expected = ((views[0] + views[1]) / 2 + views[2]) / 3  # three clouds, the second has no masks
    found = mask_contrast(torch.from_numpy(features), masks, 3, 0.1)
    assert found.item() == pytest.approx(expected, rel=1e-4)


def plain_aggregated(a: np.ndarray, b: np.ndarray, temperature: float) -> float:
    k = len(a)
    total = 0.0
    for one, other in ((a, b), (b, a)):
        for i in range(k):
            scores = [math.exp(cosine(one[i], other[j]) / temperature) for j in range(k)]
            total -= math.log(scores[i] / sum(scores)) / k
    return total / 2


def test_label_contrast_equals_plain_loops() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 5, 6))
    assert aggregated_contrast(torch.from_numpy(a), torch.from_numpy(b), 0.2).item() == pytest.approx(
        plain_aggregated(a, b, 0.2), rel=1e-5
    )
    matrix = random_rows(rng, 12, 20)
    features = rng.standard_normal((20, 4))
    pools = (matrix.toarray() @ features).reshape(6, 2, 4)
    cloud = np.array([0, 0, 0, 1, 1, 3])  # cloud 3 has one group: nothing to tell it from
    expected = plain_aggregated(pools[:3, 0], pools[:3, 1], 0.2) + plain_aggregated(pools[3:5, 0], pools[3:5, 1], 0.2)
    labels = LabelGroups(SparseRows.of(matrix), torch.from_numpy(cloud))
    assert label_contrast(torch.from_numpy(features), labels, 4, 0.2).item() == pytest.approx(expected / 4, rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 99), st.sampled_from([(64, 48), (32, 24), (70, 50)]), st.floats(0.51, 1.0),
    st.sampled_from([CellGrid(64, 48, 8), CellGrid(60, 44, 8)]),
)  # fmt: skip
def test_cell_masks_are_counted_pixel_by_pixel(seed: int, size: tuple[int, int], purity: float, grid: CellGrid) -> None:
    rng = np.random.default_rng(seed)
    width, height = size
    ids = np.kron(rng.integers(-1, 3, (2, height // 5 + 1, width // 7 + 1)), np.ones((1, 5, 7), int))
    ids = ids[:, :height, :width].astype(np.int32)
    found = cell_masks(ids, grid, purity)
    for view, cell in np.ndindex(2, grid.cells):
        inside = [
            int(ids[view, y, x])
            for y, x in np.ndindex(height, width)
            if int((y + 0.5) * grid.height / height) // grid.cell == cell // grid.cols
            and int((x + 0.5) * grid.width / width) // grid.cell == cell % grid.cols
        ] if cell % 7 == 0 else None  # fmt: skip
        if inside is None:
            continue
        shares = {m: inside.count(m) / len(inside) for m in set(inside) if m >= 0}
        best: int = max(shares, key=lambda m: shares[m], default=-1)
        expected = best if shares and shares[best] >= purity - 1e-12 else -1
        assert found[view, cell] == expected


def test_cell_areas_count_pixels() -> None:
    grid = CellGrid(20, 13, 8)
    plain = np.zeros(grid.cells, int)
    for y, x in np.ndindex(13, 20):
        plain[y // 8 * grid.cols + x // 8] += 1
    np.testing.assert_array_equal(cell_areas(grid), plain)


def test_pixel_rows_show_what_the_lifting_index_renders() -> None:
    store = make_entries(scenes=1)[0].store
    assert isinstance(store, MemoryStore)
    rng = np.random.default_rng(0)
    voxel = rng.integers(40, size=len(store.index))
    features = rng.standard_normal((40, 3)).astype(np.float32)
    expected, weight = store.index.render(features[voxel])
    columns = np.sort(rng.permutation(np.flatnonzero(weight > 0))[:30])
    shown = pixel_rows(store.index, columns, voxel, 40) @ torch.from_numpy(features)
    np.testing.assert_allclose(shown, expected[columns], atol=1e-5)


def test_drawn_cells_keep_their_bounds() -> None:
    rng = np.random.default_rng(0)
    masks = rng.choice([-1, 0, 1, 2, 3], p=[0.2, 0.5, 0.2, 0.095, 0.005], size=400).astype(np.int32)
    cells = drawn_cells(masks, 10, 25, np.random.default_rng(1))
    assert len(set(cells.tolist())) == len(cells) <= 25
    assert (np.diff(cells) > 0).all()
    counts = np.bincount(masks[cells])
    assert counts.max() <= 10
    assert (counts[counts > 0] >= 2).all()
    assert not np.array_equal(cells, drawn_cells(masks, 10, 25, np.random.default_rng(2)))


def test_mask_groups_hold_pixels_of_one_mask_that_the_crop_shows() -> None:
    store = add_masks(make_entries(scenes=1, n=800))[0].store
    assert isinstance(store, MemoryStore)
    index = store.index
    masks = cell_masks(store.mask_ids["sam"]["part"], GRID, 0.8)
    chosen = MaskContrastSettings(weight=1, per_mask=8, pixels=40, cover=0.02)
    groups = mask_groups(index, masks, np.arange(len(index)), len(index), chosen, np.random.default_rng(0))
    assert groups is not None
    weight = index.render(np.ones((len(index), 1)))[1] / np.tile(cell_areas(GRID), index.n_views)
    dense = torch.zeros(len(groups.pixels), len(index))
    for row, (a, b) in enumerate(zip(groups.pixels.indptr.tolist(), groups.pixels.indptr[1:].tolist())):
        dense[row, groups.pixels.columns[a:b]] = groups.pixels.weights[a:b]
    torch.testing.assert_close(dense.sum(1), torch.ones(len(dense)), atol=1e-5, rtol=0)
    # every drawn pixel is a cell of its view with that mask; find it again by its weights
    matrix = sparse.csr_matrix((index.weights, index.columns, index.indptr), shape=(len(index), index.n_columns))
    columns = (matrix.toarray() / np.maximum(matrix.toarray().sum(0), 1e-9)).T
    of_group: dict[int, set[tuple[int, int]]] = {}
    for row, group, context in zip(dense.numpy(), groups.group.tolist(), groups.context.tolist()):
        column = int(np.abs(columns - row).max(1).argmin())
        view, cell = divmod(column, GRID.cells)
        assert view == context  # every view shows two masks here
        assert weight[column] >= 0.02
        of_group.setdefault(group, set()).add((view, int(masks[view, cell])))
    assert all(len(found) == 1 for found in of_group.values())
    assert len({next(iter(found)) for found in of_group.values()}) == len(of_group) > 4
    alone = np.where(masks >= 0, 0, -1).astype(np.int32)
    assert mask_groups(index, alone, np.arange(len(index)), len(index), chosen, np.random.default_rng(0)) is None


def test_label_groups_halve_the_voxels_of_a_majority() -> None:
    rng = np.random.default_rng(4)
    labels, voxel = rng.integers(-1, 5, 900).astype(np.int32), rng.integers(200, size=900)
    labels[labels == 4] = np.where(rng.random((labels == 4).sum()) < 0.05, 4, -1)  # too few
    groups = label_groups(labels, voxel, 200, 12, rng)
    assert groups is not None
    majority = {}
    for v in set(voxel.tolist()):
        own = [x for x in labels[voxel == v].tolist() if x >= 0]
        if own:
            majority[v] = min(set(own), key=lambda x: (-own.count(x), x))
    for k in range(len(groups.cloud)):
        halves = [
            set(groups.half_sums.columns[groups.half_sums.indptr[r] : groups.half_sums.indptr[r + 1]].tolist())
            for r in (2 * k, 2 * k + 1)
        ]
        assert not halves[0] & halves[1]
        assert abs(len(halves[0]) - len(halves[1])) <= 1
        assert {v for v, x in majority.items() if x == k} == halves[0] | halves[1]
    assert len(groups.cloud) == 4
    assert label_groups(np.full(900, -1, np.int32), voxel, 200, 12, rng) is None
    assert label_groups(np.zeros(900, np.int32), voxel, 200, 12, rng) is None


def test_a_match_is_the_mean_over_clouds() -> None:
    p, t, w = torch.randn(9, 4), torch.randn(9, 4), torch.rand(9) + 0.1
    cloud = torch.tensor([0] * 6 + [2] * 3)
    shares, seen = cloud_shares(w, cloud, 3)
    assert seen == pytest.approx(2 / 3)
    both = distillation_loss(p, t, shares, cosine_weight=1, smooth_l1_weight=1).loss
    single = [
        distillation_loss(p[cloud == c], t[cloud == c], w[cloud == c], cosine_weight=1, smooth_l1_weight=1).loss
        for c in (0, 2)
    ]
    torch.testing.assert_close(both, (single[0] + single[1]) / 2)


def contrast_dataset(teacher: TeacherSettings, seed: int = 3) -> CacheDataset:
    entries = add_masks(make_entries(scenes=3, n=600))
    entries[1].store.mask_ids.clear()  # type: ignore[attr-defined]
    data = DataSettings(max_points=300)
    return CacheDataset(
        entries, {"text": 8, "dense": 12}, {"text": teacher}, ENCODER, data, AugmentConfig(), seed=seed, batch_size=3
    )


def test_batches_bring_groups_for_the_teachers_that_ask() -> None:
    teacher = TeacherSettings(
        masks=MaskContrastSettings(weight=1, cover=0.0, levels=("part", "whole")),
        labels=LabelContrastSettings(weight=1, min_rows=10),
    )
    dataset = contrast_dataset(teacher)
    batch = dataset.batch(0, 0, 3)
    assert set(batch.masks) == set(batch.labels) == {"text"}
    masks = batch.masks["text"]
    without = [i for i, name in enumerate(batch.scenes) if name == "room1"]
    assert set(masks.cloud.tolist()) == {0, 1, 2} - set(without)
    assert masks.pixels.width == len(batch.points)
    rows = torch.repeat_interleave(torch.arange(len(masks.pixels)), masks.pixels.indptr.diff())
    assert torch.equal(batch.points.batch[masks.pixels.columns], masks.cloud[masks.context[rows]])
    for context in range(len(masks.cloud)):  # groups of different views are different groups
        others = set(masks.group[masks.context != context].tolist())
        assert not others & set(masks.group[masks.context == context].tolist())
    again = contrast_dataset(teacher)
    last = collate([again.batch(0, 2, 3)]).labels["text"].half_sums.weights
    torch.testing.assert_close(last, batch.labels["text"].half_sums.weights[-len(last) :])
    plain: Batch = contrast_dataset(TeacherSettings()).batch(0, 0, 3)
    assert not plain.masks
    assert not plain.labels
    assert torch.equal(plain.points.feat, batch.points.feat)  # asking for groups moves no other draw


def test_unknown_mask_teacher_or_level_is_named() -> None:
    for wrong, message in (
        (MaskContrastSettings(weight=1, teacher="sum"), r"room\d: masks.teacher is 'sum', its mask teachers are sam"),
        (MaskContrastSettings(weight=1, levels=("hole",)), r"masks.levels names 'hole', teacher sam has whole, part"),
    ):
        with pytest.raises(ConfigError, match=message):
            contrast_dataset(TeacherSettings(masks=wrong)).batch(0, 0, 3)


def test_whole_index_and_gathered_rows_agree() -> None:
    dataset = contrast_dataset(TeacherSettings())
    scene = dataset.scenes[0]
    rows = np.sort(np.random.default_rng(0).permutation(600)[:200])
    kept = scene.index(rows)
    direct: LiftingIndex = scene._store.lifting(rows)
    for key in ("order", "indptr", "columns", "weights"):
        np.testing.assert_array_equal(getattr(kept, key), getattr(direct, key))
