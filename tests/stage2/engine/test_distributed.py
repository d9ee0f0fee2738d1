"""Processes meet over a real gloo group."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from stage2_distill.engine.distributed import Processes
from stage2_distill.engine.synced_norm import SyncedBatchNorm, synchronise_batch_norm

#: Rows of the two processes: unequal shares of one batch.
ROWS = (5, 19)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.BatchNorm1d(3, eps=1e-6, momentum=None),
        nn.Linear(3, 4),
        nn.Sequential(nn.BatchNorm1d(4, eps=1e-3)),
        nn.GELU(),
    )


def batch() -> Tensor:
    # far from zero: a variance as mean of squares less square of mean would be wrong in f32
    return torch.randn(sum(ROWS), 3, generator=torch.Generator().manual_seed(1)) * 0.1 + 50


def learn(model: nn.Module, part: slice) -> dict[str, Tensor]:
    """Gradients of a sum over `part` of the batch and all tensors after two passes."""
    x = batch()[part].requires_grad_()
    for _ in range(2):
        model.zero_grad()
        x.grad = None
        (model(x) * torch.arange(1.0, 5.0)).square().sum().backward()
    assert x.grad is not None
    gradients = {f"d {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return gradients | {"dx": x.grad} | {k: v.clone() for k, v in model.state_dict().items()}


def _process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    model = network()
    synchronise_batch_norm(model)
    assert sum(isinstance(m, SyncedBatchNorm) for m in model.modules()) == 2
    part = slice(0, ROWS[0]) if rank == 0 else slice(ROWS[0], None)
    found = learn(model, part)
    model.eval()
    torch.save(found | {"inference": model(batch())}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_batch_norm_of_two_processes_equals_that_of_one(tmp_path: Path) -> None:
    """Values, running statistics and every gradient, against torch's BatchNorm1d on the whole batch."""
    mp.spawn(_process, (str(tmp_path),), nprocs=2)
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    model = network()
    whole = learn(model, slice(None))
    assert set(one) == set(whole) | {"inference"}
    for name, expected in whole.items():
        if name == "dx":
            found = torch.cat([one[name], two[name]])
        else:
            found = one[name] + two[name] if name.startswith("d ") else one[name]
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)
    for name in model.state_dict():
        assert torch.equal(one[name], two[name]), name
    model.eval()
    torch.testing.assert_close(one["inference"], model(batch()), rtol=1e-4, atol=1e-4)


def test_alone_in_evaluation_it_is_torchs_own() -> None:
    model = network().eval()
    expected = model(batch())
    synchronise_batch_norm(model)
    torch.testing.assert_close(model(batch()), expected, rtol=0, atol=0)


def _statistics(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2), nn.BatchNorm1d(2))
    model(torch.randn(16, 3, generator=torch.Generator().manual_seed(rank)))
    before = {k: v.clone() for k, v in model.named_buffers()}
    Processes(rank, 2).average_statistics(model)
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
