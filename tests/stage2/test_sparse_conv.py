"""Submanifold convolution against torch's dense conv3d; gradients; memory linear in N."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from stage2_distill.encoder import sparse_conv
from stage2_distill.encoder.neighbours import find_neighbours
from stage2_distill.encoder.sparse_conv import SubMConv3d, submanifold_conv
from tests.stage2.clouds import cloud


def dense_conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, grid: torch.Tensor) -> torch.Tensor:
    """conv3d on the dense grid, read off at the occupied voxels."""
    size = (grid.amax(0) + 1).tolist()
    volume = x.new_zeros(1, x.shape[1], *size)
    volume[0, :, grid[:, 0], grid[:, 1], grid[:, 2]] = x.T
    out = F.conv3d(volume, weight.permute(0, 4, 1, 2, 3), bias, padding=weight.shape[1] // 2)
    return out[0, :, grid[:, 0], grid[:, 1], grid[:, 2]].T


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("tile", [16, 4096])
def test_equals_dense_convolution(kernel: int, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_conv, "CPU_TILE", tile)
    batch = cloud(120, 4, extent=8)
    torch.manual_seed(0)
    conv = SubMConv3d(4, 6, kernel).double()
    x = batch.feat.double().requires_grad_()
    table = find_neighbours(batch.grid_coord, batch.batch, kernel)
    ours = conv(x, table)
    reference = dense_conv(x, conv.weight, conv.bias, batch.grid_coord)
    assert torch.allclose(ours, reference, atol=1e-12)
    tiles = torch.cat([values for _, values in conv.tiles(x.detach(), table)])
    assert torch.allclose(tiles, reference, atol=1e-12)
    upstream = torch.randn_like(ours)
    mine = torch.autograd.grad(ours, (x, conv.weight, conv.bias), upstream)
    theirs = torch.autograd.grad(reference, (x, conv.weight, conv.bias), upstream)
    for a, b in zip(mine, theirs):
        assert torch.allclose(a, b, atol=1e-10)


@pytest.mark.parametrize(("kernel", "inner", "outer"), [(3, 2, 3), (5, 1, 2)])
def test_gradcheck(kernel: int, inner: int, outer: int) -> None:
    batch = cloud(14, inner, extent=kernel)
    table = find_neighbours(batch.grid_coord, batch.batch, kernel)
    torch.manual_seed(0)
    inputs = (
        batch.feat.double().requires_grad_(),
        torch.randn(outer, kernel, kernel, kernel, inner, dtype=torch.float64, requires_grad=True),
        torch.randn(outer, dtype=torch.float64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(lambda x, w, b: submanifold_conv(x, w, b, table), inputs)


def test_clouds_do_not_touch() -> None:
    a, b = cloud(50, 3, seed=1, extent=5), cloud(50, 3, seed=2, extent=5)
    conv = SubMConv3d(3, 3)
    together = type(a).concatenate([a, b])
    out = conv(together.feat, find_neighbours(together.grid_coord, together.batch, 3))
    assert torch.allclose(out[: len(a)], conv(a.feat, find_neighbours(a.grid_coord, a.batch, 3)), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_runs_in_low_precision_and_stays_close(dtype: torch.dtype) -> None:
    batch = cloud(200, 16, extent=10)
    torch.manual_seed(0)
    conv = SubMConv3d(16, 16)
    table = find_neighbours(batch.grid_coord, batch.batch, 3)
    with torch.autocast("cpu", dtype=dtype):
        out = conv(batch.feat, table)
    reference = conv(batch.feat, table)
    assert out.dtype == dtype
    assert (out - reference).norm() / reference.norm() < 0.01
    out.float().sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.dtype == torch.float32


def test_largest_tensor_is_linear_in_rows() -> None:
    """No intermediate of forward or backward has more elements than the weight or N x max(in, out)."""
    batch = cloud(1500, 8, extent=16)
    conv = SubMConv3d(8, 8)
    table = find_neighbours(batch.grid_coord, batch.batch, 3)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.is_floating_point():
                largest = max(largest, out.numel())
            return out

    with Watch():
        conv(batch.feat.clone().requires_grad_(), table).sum().backward()
    assert 0 < largest <= max(conv.weight.numel(), 8 * len(batch))


def test_wrong_table_is_refused() -> None:
    batch = cloud(20, 4)
    with pytest.raises(ValueError, match="kernel 5"):
        SubMConv3d(4, 4, 3)(batch.feat, find_neighbours(batch.grid_coord, batch.batch, 5))
