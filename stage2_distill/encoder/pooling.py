"""Down and up between levels: linear, segment reduction over the voxels that fall together, norm, GELU; and the sum
with a skip on the way up.

`SerializedPooling` and `GridPooling` of upstream differ only in how they number the pooled voxels and re-serialize
them (hierarchy.py); the arithmetic, and hence this module, is one (Pointcept point_transformer_v3m1_base.py, Sonata
model.py).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from chorus_common.segments import Reduce, segment_reduce

NormFactory = Callable[[int], nn.Module]


class Pooling(nn.Module):
    """[N, in] -> [M, out]: reduce(Linear(x)) per coarse voxel, norm, GELU. Keys: proj.*, norm.0.*."""

    def __init__(self, in_channels: int, out_channels: int, reduce: Reduce, norm: NormFactory) -> None:
        super().__init__()
        self.reduce: Reduce = reduce
        self.proj = nn.Linear(in_channels, out_channels)
        self.norm = nn.Sequential(norm(out_channels))
        self.act = nn.GELU()

    def forward(self, x: Tensor, cluster: Tensor, n_coarse: int) -> Tensor:
        """`cluster` [N] i64: coarse row of each fine row."""
        return self.act(self.norm(segment_reduce(self.proj(x), cluster, n_coarse, self.reduce)))


class Unpooling(nn.Module):
    """Fine features = GELU(norm(Linear(skip))) + GELU(norm(Linear(coarse)))[cluster]. Keys: proj.{0,1}.*,
    proj_skip.{0,1}.*.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, norm: NormFactory) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(in_channels, out_channels), norm(out_channels), nn.GELU())
        self.proj_skip = nn.Sequential(nn.Linear(skip_channels, out_channels), norm(out_channels), nn.GELU())

    def forward(self, coarse: Tensor, skip: Tensor, cluster: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (sum [N, out], skip branch alone [N, out]); the latter feeds the first convolution of m1 decoders."""
        branch = self.proj_skip(skip)
        return branch + self.proj(coarse).index_select(0, cluster), branch


def pooled_mean(values: Tensor, cluster: Tensor, n_coarse: int) -> Tensor:
    """Mean of `values` [N, C] per coarse voxel; [M, C]."""
    return torch.as_tensor(segment_reduce(values, cluster, n_coarse, "mean"))
