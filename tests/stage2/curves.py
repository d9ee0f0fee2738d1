"""Space-filling curves the other way round, from codes to cells: the inverses that the encoder does not need."""

from __future__ import annotations

import torch
from torch import Tensor

from stage2_distill.encoder.serialization import _SPREAD


def gather_bits(value: Tensor) -> Tensor:
    """Inverse of `spread_bits`: bit 3i of each value moved to bit i."""
    value = value & _SPREAD[-1][1]
    for (shift, _), mask in zip(reversed(_SPREAD), [m for _, m in reversed(_SPREAD[:-1])] + [0x1FFFFF]):
        value = (value | (value >> shift)) & mask
    return value


def z_decode(code: Tensor) -> Tensor:
    """Inverse of `z_encode`: [N] -> [N, 3]."""
    return torch.stack([gather_bits(code >> 2), gather_bits(code >> 1), gather_bits(code)], dim=-1)


def hilbert_decode(code: Tensor, depth: int) -> Tensor:
    """Inverse of `hilbert_encode`: [N] -> [N, 3]."""
    if depth == 0:
        return code.new_zeros((len(code), 3))
    x, y, z = z_decode(code).unbind(-1)
    half = z >> 1
    axes = [x ^ half, y ^ x, z ^ y]
    for bit in range(1, depth):
        low = (1 << bit) - 1
        for i in (2, 1, 0):
            inverted = -((axes[i] >> bit) & 1) & low
            swapped = (axes[0] ^ axes[i]) & low & ~inverted
            if i:
                axes[i] = axes[i] ^ swapped
            axes[0] = axes[0] ^ (swapped | inverted) if i else axes[0] ^ inverted
    return torch.stack(axes, dim=-1)


def curve_decode(code: Tensor, depth: int, order: str) -> Tensor:
    """Inverse of `curve_encode`: [N] -> [N, 3]."""
    curve, _, trans = order.partition("-")
    grid = z_decode(code) if curve == "z" else hilbert_decode(code, depth)
    return grid[:, [1, 0, 2]] if trans else grid
