from __future__ import annotations

import numpy as np
from scipy import sparse

from evaluation.heads.grouping import GroupingConfig, Instances, _suppress, group

THINGS = np.array([False, True, True])


def touching_boxes() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two chairs that touch, a table and a floor: coordinates, probabilities, perfect offsets, instance ids."""
    rng = np.random.default_rng(0)
    parts = [([0, 0, 0], 1, 0), ([0.5, 0, 0], 1, 1), ([3, 3, 0], 2, 2), ([0, 0, -1], 0, -1)]
    coord = np.concatenate([np.array(low) + 0.5 * rng.random((200, 3)) for low, _, _ in parts]).astype(np.float32)
    kinds = np.repeat([kind for _, kind, _ in parts], 200)
    ids = np.repeat([i for _, _, i in parts], 200)
    probabilities = np.full((800, 3), 0.1, np.float32)
    probabilities[np.arange(800), kinds] = 0.8
    middles = np.array([coord[ids == i].mean(0) if i >= 0 else np.zeros(3) for i in ids])
    offsets = np.where(ids[:, None] >= 0, middles - coord, 0).astype(np.float32)
    return coord, probabilities, offsets, ids


def members(found: Instances) -> set[frozenset[int]]:
    return {frozenset(found.masks[i].indices.tolist()) for i in range(found.masks.shape[0])}


def test_offsets_tell_touching_instances_apart() -> None:
    coord, probabilities, offsets, ids = touching_boxes()
    config = GroupingConfig(min_points=20)
    found = group(probabilities, coord, offsets, 0.2, THINGS, config)
    truth = {frozenset(np.flatnonzero(ids == i).tolist()) for i in range(3)}
    assert members(found) == truth, "in place the two chairs are one cluster, which the offsets outvote"
    without = group(probabilities, coord, np.zeros_like(offsets), 0.2, THINGS, config)
    assert members(without) == {frozenset(range(400)), frozenset(range(400, 600))}
    assert set(found.classes.tolist()) == {1, 2}, "what is no thing has no instance"
    np.testing.assert_allclose(found.scores, 0.8, rtol=1e-6)


def test_wrong_offsets_do_not_lose_an_instance() -> None:
    coord, probabilities, _, _ = touching_boxes()
    scattered = 5 * np.random.default_rng(1).standard_normal(coord.shape).astype(np.float32)
    found = group(probabilities, coord, scattered, 0.2, THINGS, GroupingConfig(min_points=20))
    assert frozenset(range(400, 600)) in members(found)


def test_order_of_points_changes_nothing() -> None:
    coord, probabilities, offsets, _ = touching_boxes()
    probabilities = np.random.default_rng(2).random(probabilities.shape).astype(np.float32) * 0.2 + probabilities
    order = np.random.default_rng(3).permutation(len(coord))
    config = GroupingConfig(min_points=20)
    plain = group(probabilities, coord, offsets, 0.2, THINGS, config)
    moved = group(probabilities[order], coord[order], offsets[order], 0.2, THINGS, config)
    assert (moved.masks.toarray() == plain.masks.toarray()[:, order]).all()
    np.testing.assert_array_equal(moved.classes, plain.classes)
    np.testing.assert_allclose(moved.scores, plain.scores, rtol=1e-12)


def test_suppression_equals_a_loop() -> None:
    rng = np.random.default_rng(0)
    dense = rng.random((30, 40)) < rng.random((30, 1))
    dense[:, 0] = True
    dropped: set[int] = set()
    for i in range(30):
        for j in range(i + 1, 30):
            iou = (dense[i] & dense[j]).sum() / (dense[i] | dense[j]).sum()
            if i not in dropped and iou > 0.4:
                dropped.add(j)
    kept = _suppress(sparse.csr_matrix(dense.astype(np.int8)), 0.4)
    assert kept.tolist() == [i for i in range(30) if i not in dropped]
    assert 0 < len(dropped) < 29


def test_nothing_found() -> None:
    coord, probabilities, offsets, _ = touching_boxes()
    found = group(probabilities, coord, offsets, 0.2, np.zeros(3, bool), GroupingConfig())
    assert found.masks.shape == (0, 800)
    assert len(found.classes) == len(found.scores) == 0
    carried = found.on(np.zeros(5, np.int64))
    assert carried.masks.shape == (0, 5)
