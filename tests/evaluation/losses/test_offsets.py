from __future__ import annotations

import numpy as np
import pytest
import torch

from evaluation.losses.offsets import offset_loss


def test_equals_the_sum_written_out() -> None:
    rng = np.random.default_rng(0)
    predicted, wanted = rng.standard_normal((2, 7, 3))
    wanted[2] = 0  # in the middle of its instance: no direction
    distance = np.abs(predicted - wanted).sum(1).mean()
    directions = [
        1 - p @ w / (np.linalg.norm(p) * np.linalg.norm(w)) for p, w in zip(predicted, wanted) if np.linalg.norm(w) > 0
    ]
    loss = offset_loss(torch.from_numpy(predicted), torch.from_numpy(wanted))
    assert float(loss) == pytest.approx(distance + np.mean(directions))


def test_gradient_and_empty() -> None:
    g = torch.Generator().manual_seed(0)
    predicted = torch.randn(5, 3, dtype=torch.float64, generator=g, requires_grad=True)
    wanted = torch.randn(5, 3, dtype=torch.float64, generator=g)
    assert torch.autograd.gradcheck(lambda x: offset_loss(x, wanted), (predicted,))
    empty = torch.zeros(0, 3, requires_grad=True)
    offset_loss(empty, torch.zeros(0, 3)).backward()
    assert float(offset_loss(torch.ones(2, 3), torch.zeros(2, 3))) == pytest.approx(3.0)
