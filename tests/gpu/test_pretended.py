"""The pretended device refuses what a card refuses, and notices what makes the host wait."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stage2_distill.encoder import PointBatch, build_encoder
from tests.gpu.pretended import CudaTensor, PretendedCuda, pretended_cuda
from tests.stage2.clouds import cloud


def whats(device: PretendedCuda) -> list[str]:
    return sorted(w.what for w, count in device.waits.items() for _ in range(count))


def test_tensors_know_their_device_and_keep_their_numbers() -> None:
    with pretended_cuda():
        for x in (torch.arange(3, device="cuda"), torch.arange(3).to("cuda"), torch.tensor([0, 1, 2], device="cuda")):
            assert isinstance(x, CudaTensor)
            assert x.device == torch.device("cuda:0")
            assert (x * 2 + 1)[1:].tolist() == [3, 5]


@pytest.mark.parametrize("there", [torch.ones(3), torch.ones(3, 3)])
def test_operators_over_both_devices_are_refused(there: torch.Tensor) -> None:
    with pretended_cuda():
        here = torch.ones(3, device="cuda")
        with pytest.raises(AssertionError, match="over tensors of cuda and of the CPU"):
            there * here
        assert (here * torch.tensor(2.0)).tolist() == [2, 2, 2]  # kernels take a number from the host


def test_operators_without_a_kernel_are_refused() -> None:
    with pretended_cuda():
        here = torch.ones(4, 4, device="cuda")
        with pytest.raises(AssertionError, match="has no CUDA kernel"):
            here.to_mkldnn()


def test_numpy_is_refused() -> None:
    with pretended_cuda():
        here = torch.ones(3, device="cuda")
        with pytest.raises(TypeError, match="to numpy"):
            here.numpy()
        with pytest.raises(TypeError, match="to numpy"):
            np.asarray(here)


def test_what_makes_the_host_wait_is_noticed() -> None:
    with pretended_cuda() as device:
        x = torch.tensor([3, 1, 1]).to("cuda", non_blocking=True)
        assert not device.waits
        for wait, what in (
            (lambda: x.to("cpu"), "a copy to the host"),
            (lambda: x.tolist(), "a copy to the host"),
            (lambda: int(x[0]), "one number read"),
            (lambda: bool((x > 5).any()), "one number read"),
            (lambda: x[x > 1], "indexing by a mask"),
            (lambda: x.nonzero(), "nonzero"),
            (lambda: torch.unique(x), "unique"),
            (lambda: torch.bincount(x), "bincount (reads smallest and largest)"),
            (lambda: torch.repeat_interleave(x, x), "repeat_interleave without output_size"),
            (lambda: torch.zeros(3).to("cuda"), "a copy to the device"),
            (lambda: x[[1, 0, 2]], "an index copied to the device"),
        ):
            device.clear()
            wait()
            assert whats(device) == [what], what
        device.clear()
        torch.repeat_interleave(x, x, output_size=5)
        x[x.argsort()] + x.new_zeros(3)
        assert not device.waits


def test_gradients_steps_and_autocast_are_those_of_the_cpu() -> None:
    torch.manual_seed(0)
    here, there = nn.Linear(4, 3), nn.Linear(4, 3)
    there.load_state_dict(here.state_dict())
    x = torch.randn(5, 4)

    def step(model: nn.Module, x: torch.Tensor, device: str) -> None:
        optimizer = torch.optim.AdamW(model.parameters())
        with torch.autocast(device, torch.bfloat16):
            assert model(x).dtype == torch.bfloat16
        model(x).square().mean().backward()
        optimizer.step()

    step(here, x, "cpu")
    with pretended_cuda():
        there.to("cuda")
        step(there, x.to("cuda"), "cuda")
        for a, b in zip(there.parameters(), here.parameters()):
            assert a.is_cuda
            assert torch.equal(a.detach().to("cpu"), b.detach())


@pytest.mark.parametrize("preset", ["chorus-lite", "ptv3", "sonata"])
def test_levels_of_a_device_are_those_of_the_cpu(preset: str) -> None:
    """A device counts all voxels and pairs of neighbours at once, before it makes levels and tables."""
    encoder = build_encoder(preset, enc_channels=(12, 24, 48)).eval()
    batch = PointBatch.concatenate(
        [cloud(n, encoder.config.in_channels, n, extent) for n, extent in ((90, 5), (200, 40))]
    )
    expected = encoder.hierarchy(batch)
    with pretended_cuda():
        found = encoder.hierarchy(batch.to("cuda"))
        for here, there in zip(found, expected):
            assert here.layout == there.layout
            for name in ("coord", "grid_coord", "batch", "offset"):
                assert torch.equal(getattr(here, name).cpu(), getattr(there, name)), name
            assert (here.cluster is None) == (there.cluster is None)
            if here.cluster is not None and there.cluster is not None:
                assert torch.equal(here.cluster.cpu(), there.cluster)
            assert all(torch.equal(a.cpu(), b) for a, b in zip(here.orders, there.orders, strict=True))
            for kernel, table in here._neighbours.items():
                assert table.splits == there.neighbours(kernel).splits
                assert torch.equal(table.out_rows.cpu(), there.neighbours(kernel).out_rows)
                assert torch.equal(table.in_rows.cpu(), there.neighbours(kernel).in_rows)
