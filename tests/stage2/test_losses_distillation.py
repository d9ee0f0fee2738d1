"""The distillation loss against plain loops in float64, and what its options mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chorus_common.features.standardise import Moments, phi_s
from stage2_distill.losses.distillation import distillation_loss, visibility_weight
from stage2_distill.losses.rows import take_rows
from stage2_distill.standardiser_modules import StandardiserModule


def plain_distillation(
    p: np.ndarray, t: np.ndarray, w: np.ndarray, cosine_weight: float, smooth_l1_weight: float, beta: float
) -> float:
    total = 0.0
    for i in range(len(w)):
        cosine = p[i] @ t[i] / (np.linalg.norm(p[i]) * np.linalg.norm(t[i]))
        smooth = 0.0
        for c in range(p.shape[1]):
            d = abs(p[i, c] - t[i, c])
            smooth += 0.5 * d * d / beta if d < beta else d - 0.5 * beta
        total += w[i] * (cosine_weight * (1 - cosine) + smooth_l1_weight * smooth / p.shape[1])
    return total / w.sum()


@pytest.mark.parametrize(
    ("cosine_weight", "smooth_l1_weight", "beta"), [(1, 1, 1), (1, 0, 1), (0, 1, 0.3), (0.9, 0.1, 2)]
)
def test_distillation_loss_equals_plain_loops(cosine_weight: float, smooth_l1_weight: float, beta: float) -> None:
    rng = np.random.default_rng(0)
    p, t = rng.standard_normal((2, 50, 7)) * 1.5
    w = rng.uniform(0.1, 3, 50)
    terms = distillation_loss(
        *(torch.from_numpy(x) for x in (p, t, w)),
        cosine_weight=cosine_weight,
        smooth_l1_weight=smooth_l1_weight,
        beta=beta,
    )
    assert terms.loss.item() == pytest.approx(
        plain_distillation(p, t, w, cosine_weight, smooth_l1_weight, beta), rel=1e-5
    )
    assert terms.loss.item() == pytest.approx(
        cosine_weight * (1 - terms.cosine.item()) + smooth_l1_weight * terms.smooth_l1.item(), rel=1e-5
    )


def test_distillation_loss_gradient() -> None:
    p = torch.randn(6, 4, dtype=torch.float32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    t, w = torch.randn(6, 4), torch.rand(6) + 0.1
    distillation_loss(p, t, w, cosine_weight=1, smooth_l1_weight=1).loss.backward()
    eps, numeric = 1e-2, torch.zeros_like(p)
    for i, c in np.ndindex(6, 4):
        shift = torch.zeros_like(p)
        shift[i, c] = eps
        up, down = (
            distillation_loss(p.detach() + s, t, w, cosine_weight=1, smooth_l1_weight=1).loss for s in (shift, -shift)
        )
        numeric[i, c] = (up - down) / (2 * eps)
    torch.testing.assert_close(p.grad, numeric, atol=2e-3, rtol=0)


def test_perfect_prediction_costs_nothing() -> None:
    t = torch.randn(10, 5)
    terms = distillation_loss(t, t, torch.ones(10), cosine_weight=1, smooth_l1_weight=1)
    assert terms.loss.item() == pytest.approx(0, abs=1e-6)
    assert terms.cosine.item() == pytest.approx(1, abs=1e-6)


def test_empty_selection_is_zero_with_a_gradient() -> None:
    p = torch.zeros(0, 5, requires_grad=True)
    terms = distillation_loss(p, torch.zeros(0, 5), torch.zeros(0), cosine_weight=1, smooth_l1_weight=1)
    terms.loss.backward()
    assert terms.loss.item() == 0


def test_offset_gives_the_cosine_of_the_teachers_own_features() -> None:
    rng = np.random.default_rng(1)
    tokens = rng.standard_normal((400, 12)) @ np.diag(np.linspace(0.1, 4, 12)) + rng.standard_normal(12) * 5
    standardiser = phi_s(Moments.of(tokens))
    a, b = tokens[:50], tokens[50:100]
    own = np.mean((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))
    p, t = (torch.from_numpy(standardiser.forward(x)) for x in (a, b))
    with_mean = distillation_loss(
        p, t, torch.ones(50), cosine_weight=1, smooth_l1_weight=0, offset=StandardiserModule.of(standardiser).offset()
    )
    assert with_mean.cosine.item() == pytest.approx(own, abs=1e-4)
    centred = distillation_loss(p, t, torch.ones(50), cosine_weight=1, smooth_l1_weight=0)
    assert abs(centred.cosine.item() - own) > 0.1


def test_visibility_weight_saturates() -> None:
    visibility = torch.tensor([0.1, 1.0, 10.0, 1e6])
    torch.testing.assert_close(visibility_weight(visibility, 0), torch.ones(4))
    weights = visibility_weight(visibility, 1.0)
    torch.testing.assert_close(weights[1], torch.tensor(0.5))
    assert weights.max() <= 1
    assert (weights.diff() > 0).all()


def test_take_rows_equals_indexing() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(20, generator=generator)[:12]
    for chosen in (rows, torch.arange(20)):
        values = torch.randn(20, 3, generator=generator, dtype=torch.float64).requires_grad_()
        scale = torch.randn(len(chosen), 3, generator=generator, dtype=torch.float64)
        (take_rows(values, chosen) * scale).sum().backward()
        mine, values.grad = values.grad, None
        torch.testing.assert_close(take_rows(values, chosen), values[chosen])
        (values[chosen] * scale).sum().backward()
        torch.testing.assert_close(mine, values.grad, atol=0, rtol=0)
