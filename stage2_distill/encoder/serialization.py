"""Space-filling curves that turn voxels into sequences: z-order and Hilbert, each with a variant that swaps x and y.

Conventions of PTv3 (Wu et al. 2024, section 4.1; Pointcept `pointcept/models/utils/serialization`):
z-order puts bit i of x, y, z at 3i+2, 3i+1, 3i; the Hilbert curve is Skilling's ("Programming the Hilbert curve",
2004) with the transposed bits interleaved the same way; "-trans" swaps x and y before encoding. All functions are
pure and work on any device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chorus_common.runtime.errors import SceneError

#: bits per axis that fit a 63-bit code
MAX_DEPTH = 20
_SPREAD = (
    (32, 0x1F00000000FFFF),
    (16, 0x1F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)


def spread_bits(value: Tensor) -> Tensor:
    """Bit i of each value (< 2^21, i64) moved to bit 3i."""
    value = value & 0x1FFFFF
    for shift, mask in _SPREAD:
        value = (value | (value << shift)) & mask
    return value


def z_encode(grid: Tensor) -> Tensor:
    """Morton codes [N] i64 of grid coordinates [N, 3] (each < 2^20); x has the top bit of each triple."""
    x, y, z = grid.unbind(-1)
    return (spread_bits(x) << 2) | (spread_bits(y) << 1) | spread_bits(z)


def hilbert_encode(grid: Tensor, depth: int) -> Tensor:
    """Hilbert codes [N] i64 of grid coordinates [N, 3] in [0, 2^depth).

    The same cells at depth + 1 or depth + 2 are visited with permuted axes (at depth + 3 as before), so depth is
    part of the curve.
    """
    if depth == 0:
        return grid.new_zeros(len(grid))
    axes = list(grid.unbind(-1))
    for bit in range(depth - 1, 0, -1):
        low = (1 << bit) - 1
        for i in range(3):
            # where bit is set: invert the low bits of x; else: exchange the low bits of x and axis i
            inverted = -((axes[i] >> bit) & 1) & low
            swapped = (axes[0] ^ axes[i]) & low & ~inverted
            if i:
                axes[i] = axes[i] ^ swapped
            axes[0] = axes[0] ^ (swapped | inverted) if i else axes[0] ^ inverted
    axes[1] = axes[1] ^ axes[0]
    axes[2] = axes[2] ^ axes[1]
    # parity of the higher bits of the last axis, as a mask over the lower ones (Gray decoding)
    parity = axes[2] >> 1
    for shift in (1, 2, 4, 8, 16):
        parity = parity ^ (parity >> shift)
    return z_encode(torch.stack([a ^ parity for a in axes], dim=-1))


def curve_encode(grid: Tensor, depth: int, order: str) -> Tensor:
    """Codes [N] i64 of grid coordinates [N, 3] < 2^depth along "z", "z-trans", "hilbert" or "hilbert-trans"."""
    curve, _, trans = order.partition("-")
    if curve not in ("z", "hilbert") or trans not in ("", "trans"):
        raise ValueError(f"unknown serialization order {order!r}; known: z, z-trans, hilbert, hilbert-trans")
    if trans:
        x, y, z = grid.unbind(-1)  # a list as index would be copied to a device
        grid = torch.stack([y, x, z], dim=-1)
    return z_encode(grid) if curve == "z" else hilbert_encode(grid, depth)


def check_depth(depths: Sequence[int]) -> None:
    """Refuse clouds whose codes and cloud number do not fit into 63 bits."""
    if max(depths) > MAX_DEPTH or 3 * max(depths) + len(depths).bit_length() > 63:
        raise SceneError(
            f"the scene spans 2^{max(depths)} voxels along an axis ({len(depths)} clouds in the batch), "
            "more than a 63-bit code holds; "
            "use a larger grid size or split the scene"
        )


def serialize(
    grid: Tensor, batch: Tensor, ends: Sequence[int], depths: Sequence[int], orders: Sequence[str]
) -> list[Tensor]:
    """Row order of every curve: for each of `orders` the permutation [N] i64 that sorts rows by (cloud, code along
    the curve).

    Args:
        grid [N, 3] i64, batch [N] i64 (cloud of each row), ends [B]: cumulative row counts of the clouds.
        depths [B]: bits per axis of each cloud.
    """
    check_depth(depths)
    bits = 3 * max(depths)
    permutations = []
    for order in orders:
        if order.startswith("z") or len(set(depths)) == 1:
            code = curve_encode(grid, depths[0], order)
        else:
            parts = zip((0, *ends[:-1]), ends, depths)
            code = torch.cat([curve_encode(grid[a:b], depth, order) for a, b, depth in parts])
        permutations.append(torch.argsort((batch << bits) | code, stable=True))
    return permutations
