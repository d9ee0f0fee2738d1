"""Losses of a field against loops over regions, and their gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stage2_distill.fields.losses import (
    chosen_masks,
    compact,
    entropy,
    mixed_target,
    region_balanced_l1,
    region_variance,
)


def slow_balanced_l1(predicted: Tensor, target: Tensor, regions: Tensor) -> float:
    per_region = []
    for r in regions.unique():
        inside = regions == r
        per_region.append(np.mean([float((p - t).abs().mean()) for p, t in zip(predicted[inside], target[inside])]))
    return float(np.mean(per_region))


def slow_variance(rendered: Tensor, regions: Tensor) -> float:
    total = 0.0
    for r in regions.unique():
        inside = rendered[regions == r].numpy()
        total += len(inside) * inside.var(axis=0).mean()
    return total / len(rendered)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 10_000))
def test_region_losses_equal_loops_over_regions(cells: int, n_regions: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    predicted, target = torch.randn(cells, 5, generator=g).double(), torch.randn(cells, 5, generator=g).double()
    regions, count = compact(torch.randint(100, 100 + n_regions, (cells,), generator=g))
    assert torch.equal(regions.unique(), torch.arange(count))
    found = float(region_balanced_l1(predicted, target, regions, count))
    assert found == pytest.approx(slow_balanced_l1(predicted, target, regions), rel=1e-9)
    assert float(region_variance(predicted, regions, count)) == pytest.approx(
        slow_variance(predicted, regions), rel=1e-9, abs=1e-12
    )


def test_balance_counts_a_small_region_as_much_as_a_large_one() -> None:
    predicted, target = torch.zeros(10, 3), torch.zeros(10, 3)
    target[0] = 1.0  # a region of one cell
    regions = torch.tensor([0] + [1] * 9)
    assert float(region_balanced_l1(predicted, target, regions, 2)) == pytest.approx(0.5)
    assert float((predicted - target).abs().mean()) == pytest.approx(0.1)


def test_gradients_of_all_terms() -> None:
    g = torch.Generator().manual_seed(1)
    predicted = torch.randn(7, 4, generator=g, dtype=torch.float64, requires_grad=True)
    levels = torch.randn(7, 3, 4, generator=g, dtype=torch.float64)
    logits = torch.randn(7, 3, generator=g, dtype=torch.float64, requires_grad=True)
    regions = torch.tensor([0, 0, 1, 2, 1, 1, 2])

    def balanced(x: Tensor, z: Tensor) -> Tensor:
        return region_balanced_l1(x, mixed_target(levels, z.softmax(1)), regions, 3)

    assert torch.autograd.gradcheck(balanced, (predicted, logits))
    assert torch.autograd.gradcheck(lambda x: region_variance(x, regions, 3), (predicted,))
    assert torch.autograd.gradcheck(lambda z: entropy(z.softmax(1)), (logits,))


def test_entropy_falls_towards_a_decision() -> None:
    even, sure = torch.full((4, 3), 1 / 3), torch.tensor([[1.0, 0, 0]] * 4)
    assert float(entropy(even)) == pytest.approx(np.log(3) / 3, abs=1e-4)
    assert float(entropy(sure)) == pytest.approx(0.0, abs=1e-4)
    assert float(entropy(torch.tensor([[0.8, 0.1, 0.1]]))) < float(entropy(even))


def slow_chosen(p: np.ndarray, masks: np.ndarray, at: list[tuple[int, int, int]], blur: int) -> list[int]:
    place = {where: i for i, where in enumerate(at)}
    out = []
    for v, y, x in at:
        reach = range(-(blur // 2), blur // 2 + 1)
        near = [place[v, y + dy, x + dx] for dy in reach for dx in reach if (v, y + dy, x + dx) in place]
        i = place[v, y, x]
        out.append(int(masks[i, p[near].mean(axis=0).argmax()]))
    return out


@pytest.mark.parametrize("blur", [1, 3, 5])
def test_chosen_masks_equal_a_loop_over_cells(blur: int) -> None:
    rng = np.random.default_rng(blur)
    rows, cols, views = 5, 6, 2
    at = [(v, y, x) for v in range(views) for y in range(rows) for x in range(cols) if rng.random() < 0.7]
    p = rng.dirichlet([1, 1, 1], len(at))
    masks = rng.permutation(3 * len(at)).reshape(-1, 3)
    found = chosen_masks(
        torch.from_numpy(p), torch.from_numpy(masks), torch.tensor([y * cols + x for _, y, x in at]),
        torch.tensor([v for v, _, _ in at]), views, rows, cols, blur,
    )  # fmt: skip
    assert found.tolist() == slow_chosen(p, masks, at, blur)
