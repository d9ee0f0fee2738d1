"""Random numbers of rows that depend on their cloud alone: not on the batch, the process or the device.

Counter-based, as in Salmon et al. 2011 ("Parallel random numbers: as easy as 1, 2, 3"): a number is a hash of (the
cloud's seed, what it is drawn for, the row's place in its cloud), so any part can be drawn by itself. The hash is
SplitMix64's (Steele et al. 2014), in int64 arithmetic that wraps.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GAMMA = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed number, as the two below
_FIRST, _SECOND = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def uniform_rows(seeds: Tensor, batch: Tensor, offset: Tensor, purpose: int) -> Tensor:
    """Numbers [N] f32 in [0, 1) on a grid of 2^-24, one per row.

    Args:
        seeds: [B] i64. batch [N] i64, offset [B] i64 cumulative: the cloud of every row.
        purpose: >= 0; other purposes give independent numbers.
    """
    start = torch.cat([offset.new_zeros(1), offset[:-1]])
    row = torch.arange(len(batch), device=batch.device) - start[batch]
    stream = _mix(seeds + (purpose + 1) * _GAMMA % 2**62)  # [B]
    return (_mix(stream[batch] + (row + 1) * _GAMMA) >> 40 & 0xFFFFFF).float() * 2.0**-24


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser; the right shifts are logical."""
    z = (z ^ (z >> 30 & 0x3_FFFFFFFF)) * _FIRST
    z = (z ^ (z >> 27 & 0x1F_FFFFFFFF)) * _SECOND
    return z ^ (z >> 31 & 0x1_FFFFFFFF)
