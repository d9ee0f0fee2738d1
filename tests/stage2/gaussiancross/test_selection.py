"""Rows of many masks with one wait."""

from __future__ import annotations

import torch

from stage2_distill.gaussiancross.selection import rows_where
from tests.gpu.pretended import pretended_cuda


def test_rows_are_those_of_nonzero_and_cost_one_wait() -> None:
    g = torch.Generator().manual_seed(0)
    masks = [torch.rand(n, generator=g) > 0.5 for n in (1, 7, 0, 40)]
    with pretended_cuda() as device:
        found = rows_where([mask.to("cuda", non_blocking=True) for mask in masks])
        assert sum(device.waits.values()) == 1
        for rows, mask in zip(found, masks, strict=True):
            assert torch.equal(rows.cpu(), mask.nonzero()[:, 0])
    assert rows_where([]) == []
