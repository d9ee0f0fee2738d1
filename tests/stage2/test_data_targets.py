"""Lifted targets against a dense float64 product, and what may not change them."""

from __future__ import annotations

import numpy as np
import pytest

from chorus_common.runtime.errors import CacheError
from stage2_distill.data.targets import ByteBudget, LiftedRows, SceneTargets, voxel_targets
from tests.stage2.store_fakes import MemoryStore, make_store

TEACHERS = {"text": 8, "dense": 12}


def targets_of(store: MemoryStore, budget: int = 0, min_weight: float = 0.0, min_views: int = 1) -> SceneTargets:
    return SceneTargets(store, "room", TEACHERS, min_weight=min_weight, min_views=min_views, budget=ByteBudget(budget))


def dense_lift(store: MemoryStore, name: str, views: list[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """W as a dense float64 matrix: sums / row sums."""
    index = store.index
    matrix = np.zeros((len(index), index.n_columns))
    for row in range(len(index)):
        for k in range(index.indptr[row], index.indptr[row + 1]):
            if views is None or index.columns[k] // index.grid.cells in views:
                matrix[row, index.columns[k]] += index.weights[k]
    weight = matrix.sum(1)
    features = store.cells[name].astype(np.float64).reshape(index.n_columns, -1)
    return matrix @ features / np.maximum(weight, 1e-12)[:, None], weight


@pytest.mark.parametrize("views", [None, [1, 3]])
@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_targets_equal_a_dense_product(views: list[int] | None, budget: int) -> None:
    store = make_store(np.random.default_rng(0))
    scene = targets_of(store, budget)
    geometry = scene.geometry()
    rows = np.sort(np.random.default_rng(1).permutation(len(store.index))[:150])
    lifted = scene.targets(rows, geometry, views)
    for name in TEACHERS:
        expected, weight = dense_lift(store, name, views)
        np.testing.assert_allclose(lifted.weight, weight[rows], rtol=1e-5)
        valid = weight[rows] > 0
        assert valid.any()
        np.testing.assert_allclose(lifted.values[name][valid], expected[rows][valid], atol=2e-3)  # fp16
        assert (lifted.values[name][~valid] == 0).all()


def test_remembering_changes_no_bit_and_saves_the_work() -> None:
    store = make_store(np.random.default_rng(2))
    rows = np.arange(100, 260)
    fresh, remembered = targets_of(store, 0), targets_of(store, 1 << 30)
    a = fresh.targets(rows, fresh.geometry())
    b = remembered.targets(rows, remembered.geometry())
    for name in TEACHERS:
        assert a.values[name].tobytes() == b.values[name].tobytes()
    assert a.weight.tobytes() == b.weight.tobytes()
    before = len(store.reads)
    remembered.targets(rows, remembered.geometry())
    assert len(store.reads) == before
    fresh.targets(rows, fresh.geometry())
    assert len(store.reads) == before + len(TEACHERS)


def test_budget_is_shared_and_never_exceeded() -> None:
    budget = ByteBudget(100)
    assert budget.take(60)
    assert not budget.take(60)
    assert budget.take(40)
    assert not budget.take(1)


def test_visibility_thresholds_mask_gaussians() -> None:
    store = make_store(np.random.default_rng(3))
    weight, n_views = store.visibility()
    scene = targets_of(store, min_weight=2.0, min_views=3)
    geometry = scene.geometry()
    expected = (weight > 2.0) & (n_views >= 3)
    assert 0 < expected.sum() < len(expected)
    np.testing.assert_array_equal(geometry.valid, expected)
    lifted = scene.targets(np.arange(len(weight)), geometry)
    np.testing.assert_array_equal(lifted.weight > 0, expected)


def test_scene_without_enough_visibility_is_named() -> None:
    store = make_store(np.random.default_rng(3))
    with pytest.raises(CacheError, match=r"scene room: no Gaussian .* lower data.min_weight"):
        targets_of(store, min_weight=1e9).geometry()


def test_non_finite_features_name_scene_and_teacher() -> None:
    store = make_store(np.random.default_rng(4))
    store.cells["dense"][0, 2, 3, 1] = np.inf
    scene = targets_of(store)
    with pytest.raises(CacheError, match=r"scene room: lifted features of teacher dense are not finite"):
        scene.targets(np.arange(len(store.index)), scene.geometry())


def test_wrong_width_names_scene_and_teacher() -> None:
    store = make_store(np.random.default_rng(4), teachers={"text": 9, "dense": 12})
    scene = targets_of(store)
    with pytest.raises(CacheError, match=r"scene room: teacher text has 9 channels, not 8"):
        scene.targets(np.arange(10), scene.geometry())


def test_missing_teacher_is_left_out() -> None:
    store = make_store(np.random.default_rng(4), teachers={"text": 8})
    scene = targets_of(store)
    assert set(scene.targets(np.arange(10), scene.geometry()).values) == {"text"}


def test_voxel_targets_are_visibility_weighted_means() -> None:
    rng = np.random.default_rng(0)
    n, voxels = 80, 25
    values = rng.standard_normal((n, 6)).astype(np.float16)
    weight = np.where(rng.random(n) < 0.6, rng.uniform(0.1, 50, n), 0).astype(np.float32)
    kept = np.sort(rng.permutation(n)[:60])
    inverse = rng.integers(0, voxels, 60)
    target = voxel_targets(LiftedRows({"t": values}, weight), kept, inverse, voxels)["t"]
    expected_rows = []
    for voxel in range(voxels):
        members = [g for g, v in zip(kept, inverse) if v == voxel and weight[g] > 0]
        if not members:
            continue
        expected_rows.append(voxel)
        w = weight[members].astype(np.float64)
        mean = (w[:, None] * values[members].astype(np.float64)).sum(0) / w.sum()
        place = target.rows.tolist().index(voxel)
        np.testing.assert_allclose(target.values[place], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(target.weight[place], w.sum(), rtol=1e-5)
    assert target.rows.tolist() == expected_rows
    nothing = LiftedRows({"t": values}, np.zeros_like(weight))
    assert voxel_targets(nothing, kept, inverse, voxels) == {}
