"""Space-filling curves: published vectors, round trips, the prefix property, orders of batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_common.runtime.errors import SceneError
from stage2_distill.encoder.layout import Layout, required_depth
from stage2_distill.encoder.serialization import curve_encode, serialize
from tests.stage2.curves import curve_decode

ORDERS = ("z", "z-trans", "hilbert", "hilbert-trans")
POINTS = torch.tensor(
    [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [7, 3, 5], [5, 0, 2], [100, 37, 251], [255, 255, 255],
     [1023, 17, 600]]
)  # fmt: skip
VECTORS = {
    (3, "z"): [0, 4, 2, 1, 7, 375, 268],
    (3, "z-trans"): [0, 2, 4, 1, 7, 247, 138],
    (3, "hilbert"): [0, 1, 7, 3, 5, 391, 479],
    (3, "hilbert-trans"): [0, 7, 1, 3, 5, 165, 205],
    (8, "z"): [0, 4, 2, 1, 7, 375, 268, 3642251, 16777215],
    (8, "z-trans"): [0, 2, 4, 1, 7, 247, 138, 3117965, 16777215],
    (8, "hilbert"): [0, 3, 1, 7, 5, 177, 123, 2790200, 11983725],
    (8, "hilbert-trans"): [0, 1, 3, 7, 5, 305, 495, 3725868, 11983725],
    (10, "z"): [0, 4, 2, 1, 7, 375, 268, 3642251, 16777215, 748059430],
    (10, "z-trans"): [0, 2, 4, 1, 7, 247, 138, 3117965, 16777215, 441284246],
    (10, "hilbert"): [0, 7, 3, 1, 5, 293, 249, 6928938, 11983725, 938532202],
    (10, "hilbert-trans"): [0, 3, 7, 1, 5, 401, 89, 7453226, 11983725, 329954540],
}


@pytest.mark.parametrize(("depth", "order"), VECTORS)
def test_published_codes(depth: int, order: str) -> None:
    points = POINTS[(2**depth > POINTS).all(1)]
    assert curve_encode(points, depth, order).tolist() == VECTORS[depth, order]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.sampled_from(ORDERS), st.integers(0, 10**6))
def test_round_trip_and_prefix(depth: int, order: str, seed: int) -> None:
    grid = torch.randint(0, 2**depth, (50, 3), generator=torch.Generator().manual_seed(seed))
    code = curve_encode(grid, depth, order)
    assert torch.equal(curve_decode(code, depth, order), grid)
    assert int(code.max()) < 8**depth
    assert torch.equal(code >> 3, curve_encode(grid >> 1, depth - 1, order))


@pytest.mark.parametrize("order", ["hilbert", "hilbert-trans"])
def test_hilbert_walks_from_neighbour_to_neighbour(order: str) -> None:
    steps = curve_decode(torch.arange(8**3), 3, order).diff(dim=0).abs().sum(1)
    assert torch.equal(steps, torch.ones_like(steps))


def test_depth_rules_differ_at_powers_of_two() -> None:
    grid = torch.tensor([[7, 0, 0]])
    layout = Layout.of(grid, torch.tensor([1]))
    assert layout.depths("max", False) == [required_depth(7, "max")] == [3]
    assert layout.depths("max+1", False) == [required_depth(7, "max+1")] == [4]


def test_order_of_a_batch_is_the_order_of_each_cloud() -> None:
    g = torch.Generator().manual_seed(0)
    clouds = [torch.randint(0, 2**d, (30, 3), generator=g) for d in (3, 5)]
    depths = [3, 5]
    batch = torch.tensor([0] * 30 + [1] * 30)
    together = serialize(torch.cat(clouds), batch, [30, 60], depths, ORDERS)
    for name, order in zip(ORDERS, together):
        alone = [
            serialize(c, torch.zeros(30, dtype=torch.int64), [30], [depths[i]], [name])[0] for i, c in enumerate(clouds)
        ]
        assert torch.equal(order, torch.cat([alone[0], alone[1] + 30]))


def test_too_wide_a_scene_is_refused() -> None:
    with pytest.raises(SceneError, match="larger grid size"):
        serialize(torch.tensor([[2**21, 0, 0]]), torch.tensor([0]), [1], [22], ["z"])


def test_unknown_order() -> None:
    with pytest.raises(ValueError, match="unknown serialization order"):
        curve_encode(POINTS, 10, "peano")
