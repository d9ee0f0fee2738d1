"""Segment reductions against loops, gradients included."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chorus_common.segments import segment_reduce, torch_scatter_module


def slow_reduce(values: Tensor, ids: Tensor, n: int, reduce: str) -> Tensor:
    rows = []
    for s in range(n):
        member = values[ids == s]
        if len(member) == 0:
            rows.append(values.new_zeros(values.shape[1:]))
        elif reduce == "max":
            rows.append(member.amax(0))
        else:
            rows.append(getattr(member, reduce)(0))
    return torch.stack(rows)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 9), st.sampled_from(["sum", "mean", "max"]))
def test_equals_loop(seed: int, m: int, n: int, reduce: str) -> None:
    g = torch.Generator().manual_seed(seed)
    values = torch.randn(m, 3, generator=g, dtype=torch.float64)
    ids = torch.randint(0, n, (m,), generator=g)
    expected = slow_reduce(values, ids, n, reduce)
    assert torch.allclose(segment_reduce(values, ids, n, reduce, native=True), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
def test_gradient(reduce: str) -> None:
    g = torch.Generator().manual_seed(1)
    values = torch.randn(12, 2, generator=g, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(0, 5, (12,), generator=g)
    assert torch.autograd.gradcheck(lambda v: segment_reduce(v, ids, 6, reduce, native=True), values)  # type: ignore[arg-type]


def test_max_gradient_goes_to_the_first_of_equals() -> None:
    values = torch.tensor([[1.0], [3.0], [3.0], [-1.0]], requires_grad=True)
    segment_reduce(values, torch.tensor([0, 0, 0, 1]), 3, "max").sum().backward()
    assert values.grad is not None
    assert values.grad.squeeze(1).tolist() == [0.0, 1.0, 0.0, 1.0]


def test_wrong_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="ids must be"):
        segment_reduce(torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64), 2, "sum")


@pytest.mark.skipif(torch_scatter_module() is None, reason="torch-scatter is not installed")
@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
def test_torch_scatter_gives_the_same(reduce: str) -> None:
    g = torch.Generator().manual_seed(3)
    values, ids = torch.randn(50, 4, generator=g), torch.randint(0, 11, (50,), generator=g)
    ours = segment_reduce(values, ids, 12, reduce, native=True)  # type: ignore[arg-type]
    assert torch.allclose(segment_reduce(values, ids, 12, reduce, native=False), ours, atol=1e-6)  # type: ignore[arg-type]
