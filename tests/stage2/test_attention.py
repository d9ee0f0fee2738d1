"""Patches and attention against loops with explicit softmax; PointROPE."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stage2_distill.encoder.attention import SerializedAttention, cut_patches, patch_attention
from stage2_distill.encoder.rope import apply_rope, rope_angles


def slow_partition(n: int, k: int) -> list[list[int]]:
    """Positions in curve order per patch, as upstream pads them."""
    if n <= k:
        return [list(range(n))]
    full, tail = n // k, n % k
    patches = [list(range(i * k, (i + 1) * k)) for i in range(full)]
    if tail:
        patches.append(list(range(full * k, n)) + patches[-1][tail:])
    return patches


def slow_attention(qkv: torch.Tensor, heads: int, order: torch.Tensor, ends: list[int], k: int) -> torch.Tensor:
    n, c = len(qkv), qkv.shape[1] // 3
    q, key, v = qkv.view(n, 3, heads, c // heads).unbind(1)
    out = torch.full((n, c), float("nan"), dtype=qkv.dtype)
    for start, end in zip([0, *ends[:-1]], ends):
        done: set[int] = set()
        for patch in slow_partition(end - start, k):
            rows = order[start:end][patch]
            for h in range(heads):
                logits = q[rows, h] @ key[rows, h].T * (c // heads) ** -0.5
                values = logits.softmax(-1) @ v[rows, h]
                for row, value in zip(rows.tolist(), values):
                    if row not in done:
                        out[row, h * (c // heads) : (h + 1) * (c // heads)] = value
            done.update(rows.tolist())
    return out


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 23), min_size=1, max_size=4), st.integers(1, 9))
def test_equals_loop(seed: int, sizes: list[int], k: int) -> None:
    g = torch.Generator().manual_seed(seed)
    ends = torch.tensor(sizes).cumsum(0)
    order = torch.cat([torch.randperm(s, generator=g) + e - s for s, e in zip(sizes, ends.tolist())])
    qkv = torch.randn(sum(sizes), 24, generator=g, dtype=torch.float64)
    patches = cut_patches(order, ends.tolist(), k)
    expected = slow_attention(qkv, 2, order, ends.tolist(), k)
    assert torch.allclose(patch_attention(qkv, 2, patches), expected, atol=1e-10)
    module = SerializedAttention(8, 2).double()
    x = torch.randn(sum(sizes), 8, generator=g, dtype=torch.float64)
    whole = module(x, patches)
    out = torch.full((len(whole) + 1, 8), float("nan"), dtype=torch.float64)
    for rows, length, owners in patches.tiles(2 * k):
        own = owners < len(whole)
        assert torch.equal(owners[own], rows[own])
        assert torch.isnan(out[owners[own]]).all()  # each row comes once
        out[owners] = module.attend_patches(x[rows], length, None)
    assert torch.allclose(out[:-1], whole, atol=1e-10)


def test_gradcheck() -> None:
    g = torch.Generator().manual_seed(0)
    patches = cut_patches(torch.randperm(7, generator=g), [7], 3)
    qkv = torch.randn(7, 12, generator=g, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: patch_attention(x, 2, patches), qkv)


def test_rope_is_the_published_rotation() -> None:
    g = torch.Generator().manual_seed(0)
    grid, x = torch.randint(0, 40, (5, 3), generator=g), torch.randn(5, 2, 18, generator=g)
    out = apply_rope(x, rope_angles(grid, 18, 100.0))
    for n in range(5):
        for h in range(2):
            for axis in range(3):
                for i in range(3):
                    angle = torch.tensor(float(grid[n, axis]) / 100 ** (2 * i / 6))
                    u, v = x[n, h, 6 * axis + i], x[n, h, 6 * axis + i + 3]
                    assert torch.allclose(out[n, h, 6 * axis + i], u * angle.cos() - v * angle.sin(), atol=1e-4)
                    assert torch.allclose(out[n, h, 6 * axis + i + 3], v * angle.cos() + u * angle.sin(), atol=1e-4)


@pytest.mark.parametrize("head_dim", [18, 32])
def test_rope_sees_differences_only(head_dim: int) -> None:
    g = torch.Generator().manual_seed(1)
    grid = torch.randint(0, 40, (6, 3), generator=g)
    q, k = torch.randn(2, 6, 1, head_dim, generator=g)
    dots = []
    for shift in (0, 57):
        angles = rope_angles(grid + shift, head_dim, 100.0)
        dots.append(apply_rope(q, angles)[:, 0] @ apply_rope(k, angles)[:, 0].T)
    assert torch.allclose(dots[0], dots[1], atol=1e-3)
    assert not torch.allclose(dots[0], q[:, 0] @ k[:, 0].T, atol=1e-2)
