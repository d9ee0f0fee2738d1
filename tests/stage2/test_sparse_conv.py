"""Submanifold convolution against torch's dense conv3d; gradients; memory linear in N."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from stage2_distill.encoder import sparse_conv
from stage2_distill.encoder.sparse_conv import SubMConv3d, submanifold_conv
from tests.stage2.clouds import cloud, table_of


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
    table = table_of(batch.grid_coord, batch.batch, kernel)
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
    table = table_of(batch.grid_coord, batch.batch, kernel)
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
    out = conv(together.feat, table_of(together.grid_coord, together.batch, 3))
    assert torch.allclose(out[: len(a)], conv(a.feat, table_of(a.grid_coord, a.batch, 3)), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_runs_in_low_precision_and_stays_close(dtype: torch.dtype) -> None:
    batch = cloud(200, 16, extent=10)
    torch.manual_seed(0)
    conv = SubMConv3d(16, 16)
    table = table_of(batch.grid_coord, batch.batch, 3)
    with torch.autocast("cpu", dtype=dtype):
        out = conv(batch.feat, table)
    reference = conv(batch.feat, table)
    assert out.dtype == dtype
    assert (out - reference).norm() / reference.norm() < 0.01
    out.float().sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("rounding", [1, 128])
def test_what_lies_in_the_workspace_reaches_no_result(rounding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Low-precision products are taken over more rows than there are; the rest of the workspace is poisoned here."""
    empty = sparse_conv._workspace
    monkeypatch.setattr(sparse_conv, "_workspace", lambda *given: empty(*given).fill_(torch.nan))
    monkeypatch.setattr(sparse_conv, "ROUNDED_ROWS", rounding)
    batch = cloud(300, 16, extent=12)
    table = table_of(batch.grid_coord, batch.batch, 3)
    torch.manual_seed(0)
    weight, seen = torch.randn(8, 3, 3, 3, 16) / 10, torch.randn(len(batch.feat), 8)
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        x, w = batch.feat.clone().requires_grad_(), weight.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = submanifold_conv(x, w, None, table)
        (out.float() * seen).sum().backward()
        assert x.grad is not None
        assert w.grad is not None
        found.append((out.float(), x.grad, w.grad))
    for low, full in zip(*found):
        assert torch.isfinite(low).all()
        assert (low - full).norm() / full.norm() < 0.01


def test_largest_tensor_is_linear_in_rows() -> None:
    """No intermediate of forward or backward has more elements than the weight or N x max(in, out)."""
    batch = cloud(1500, 8, extent=16)
    conv = SubMConv3d(8, 8)
    table = table_of(batch.grid_coord, batch.batch, 3)
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
        SubMConv3d(4, 4, 3)(batch.feat, table_of(batch.grid_coord, batch.batch, 5))
