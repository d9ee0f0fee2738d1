"""The mask filter against the published pairwise loop, and painting against the obvious one."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from stage1_render_teachers.teachers.mask_filter import MaskFilter, keep_masks, pair_intersections
from stage1_render_teachers.teachers.sam_masks import paint, stability_score


def loop_twin(masks: np.ndarray, scores: np.ndarray, rule: MaskFilter) -> list[int]:
    """The post-filter pair by pair, as written down in LangSplat and GAGS, without their off-by-one diagonal."""
    order = sorted(range(len(masks)), key=lambda i: (-scores[i], i))
    drop = {i for i in order if not scores[i] > rule.score}
    for a, i in enumerate(order):
        for j in order[a + 1 :]:  # i is the better one
            shared = np.float32((masks[i] & masks[j]).sum())
            of_i, of_j = shared / np.float32(masks[i].sum()), shared / np.float32(masks[j].sum())
            if shared / np.float32((masks[i] | masks[j]).sum()) > np.float32(rule.iou):
                drop.add(j)
            if of_i < 0.5 and of_j >= np.float32(0.85) and 1 - of_i * of_j > 1 - rule.inner:
                drop.add(j)
            if of_i >= np.float32(0.85) and of_j < 0.5 and 1 - of_i * of_j > 1 - rule.inner:
                drop.add(i)
    return [i for i in order if i not in drop]


def random_masks(rng: np.random.Generator, n: int) -> np.ndarray:
    """Rectangles, some of them near-copies of others, some inside others."""
    masks = np.zeros((n, 24, 32), dtype=bool)
    for mask in masks:
        y, x = rng.integers(0, 20), rng.integers(0, 28)
        mask[y : y + rng.integers(2, 20), x : x + rng.integers(2, 25)] = True
    for i in range(1, n, 3):
        masks[i] = masks[i - 1]
        masks[i, rng.integers(0, 24)] = False
        if not masks[i].any():
            masks[i] = masks[i - 1]
    return masks


@given(st.integers(0, 2**32 - 1), st.integers(1, 25), st.sampled_from([0.3, 0.8]), st.sampled_from([0.2, 0.5, 0.7]))
def test_one_product_keeps_what_the_loop_keeps(seed: int, n: int, iou: float, inner: float) -> None:
    rng = np.random.default_rng(seed)
    masks, scores = random_masks(rng, n), rng.choice(np.linspace(0.5, 1, 7), n).astype(np.float32)
    rule = MaskFilter(iou=iou, score=0.6, inner=inner)
    kept = keep_masks(torch.from_numpy(masks), torch.from_numpy(scores), rule)
    assert kept.tolist() == loop_twin(masks, scores, rule)


def test_the_rules_one_by_one() -> None:
    big = np.zeros((10, 10), dtype=bool)
    big[:, :8] = True
    near_copy = big.copy()
    near_copy[0, 0] = False
    inside = np.zeros_like(big)
    inside[2:5, 2:5] = True
    apart = np.zeros_like(big)
    apart[:, 8:] = True
    masks = torch.from_numpy(np.stack([near_copy, inside, apart, big]))

    def kept(scores: list[float]) -> list[int]:
        return keep_masks(masks, torch.tensor(scores), MaskFilter()).tolist()

    assert kept([0.8, 0.9, 0.85, 0.95]) == [3, 2]  # the copy and the contained one go
    assert kept([0.96, 0.99, 0.85, 0.95]) == [0, 2]  # the contained one goes though it is the best
    assert kept([0.8, 0.9, 0.6, 0.95]) == [3]  # the one apart is not good enough
    assert kept([0.1, 0.1, 0.1, 0.1]) == []


def test_best_mask_is_not_its_own_container() -> None:
    """The published lower triangle takes in a diagonal too many: it compares a mask with its better neighbour twice."""
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :, :3] = True
    masks[1, 0, :] = True
    assert keep_masks(masks, torch.tensor([0.9, 0.8]), MaskFilter()).tolist() == [0, 1]


def test_intersections_are_exact_counts() -> None:
    masks = random_masks(np.random.default_rng(0), 12)
    expected = [[(a & b).sum() for b in masks] for a in masks]
    assert pair_intersections(torch.from_numpy(masks)).tolist() == expected


def test_stability_is_the_iou_of_two_cuts() -> None:
    logits = torch.from_numpy(np.random.default_rng(1).normal(0, 2, (5, 3, 16, 20)).astype(np.float32))
    high, low = logits > 1, logits > -1
    expected = (high & low).sum((-1, -2)) / (high | low).sum((-1, -2))
    torch.testing.assert_close(stability_score(logits), expected)
    assert stability_score(torch.full((1, 4, 4), -5.0)).tolist() == [0]


@given(st.integers(0, 2**32 - 1), st.integers(0, 9), st.sampled_from([1, 6]))
def test_painting_keeps_small_masks_on_top_and_numbers_in_reading_order(seed: int, n: int, smallest: int) -> None:
    masks = random_masks(np.random.default_rng(seed), n) if n else np.zeros((0, 24, 32), dtype=bool)
    owner = np.full((24, 32), -1)
    for k in sorted(range(n), key=lambda k: (-int(masks[k].sum()), k)):
        owner[masks[k]] = k
    expected, numbers = np.full((24, 32), -1), {}
    for y in range(24):
        for x in range(32):
            k = owner[y, x]
            if k >= 0 and (owner == k).sum() >= smallest:
                expected[y, x] = numbers.setdefault(k, len(numbers))
    ids = paint(masks, smallest)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, expected)
