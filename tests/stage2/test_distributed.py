"""Processes meet over a real gloo group."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from stage2_distill.distributed import Ranks


def _statistics(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2), nn.BatchNorm1d(2))
    model(torch.randn(16, 3, generator=torch.Generator().manual_seed(rank)))
    before = {k: v.clone() for k, v in model.named_buffers()}
    Ranks(rank, 2).average_buffers(model)
    torch.save((before, dict(model.named_buffers())), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_running_statistics_are_the_mean_over_processes(tmp_path: Path) -> None:
    mp.spawn(_statistics, (str(tmp_path),), nprocs=2)
    (one, after_one), (two, after_two) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name in one:
        expected = (one[name] + two[name]) / 2 if one[name].is_floating_point() else one[name]
        torch.testing.assert_close(after_one[name], expected.to(one[name].dtype))
        torch.testing.assert_close(after_one[name], after_two[name], rtol=0, atol=0)
    assert not torch.equal(one["0.running_mean"], two["0.running_mean"])
