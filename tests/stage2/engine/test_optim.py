"""Parameter groups, schedules and the averaged weights, each against torch's own or a plain formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stage2_distill.engine.ema import EMA
from stage2_distill.engine.optim import (
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
    parameter_groups,
    set_first_beta,
    set_learning_rate,
)
from stage2_distill.engine.schedule import first_beta, learning_rate
from stage2_distill.engine.settings import OptimSettings
from stage2_distill.losses.schedule import scheduled_weight
from stage2_distill.settings import TeacherSettings


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.BatchNorm1d(4))
        self.projectors = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.projectors(self.encoder(x))


def test_groups_cover_every_parameter_once_and_spare_vectors() -> None:
    model = Model()
    groups = parameter_groups(model, OptimSettings(weight_decay=0.1, encoder_lr_scale=0.5))
    names = [n for g in groups for n in g["names"]]
    assert sorted(names) == sorted(n for n, _ in model.named_parameters())
    parameters = dict(model.named_parameters())
    for group in groups:
        for name, parameter in zip(group["names"], group["params"]):
            assert parameter is parameters[name]
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0)
            assert group["lr_scale"] == (0.5 if name.startswith("encoder.") else 1.0)


@pytest.mark.parametrize("total", [30, 137, 1000])
def test_onecycle_equals_torch(total: int) -> None:
    optim = OptimSettings(lr=0.006, warmup=0.05, div=10, final_div=1000)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    torch_schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.006, total_steps=total, pct_start=0.05, div_factor=10, final_div_factor=1000, cycle_momentum=False
    )
    for step in range(total):
        assert learning_rate(step, total, optim) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        if step + 1 < total:
            torch_schedule.step()


def test_other_schedules() -> None:
    cosine, constant = (OptimSettings(lr=1.0, warmup=0.1, schedule=s) for s in ("cosine", "constant"))
    rates = [learning_rate(s, 100, cosine) for s in range(100)]
    assert rates[:10] == pytest.approx([(s + 1) / 11 for s in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] < 0.001
    assert [learning_rate(s, 100, constant) for s in (9, 10, 99)] == pytest.approx([10 / 11, 1, 1])
    assert learning_rate(0, 1, OptimSettings(lr=1.0)) > 0


def test_encoder_takes_its_share_of_the_rate() -> None:
    optimizer = build_optimizer(Model(), OptimSettings(encoder_lr_scale=0.1))
    set_learning_rate(optimizer, 2.0)
    assert sorted({g["lr"] for g in optimizer.param_groups}) == pytest.approx([0.2, 2.0])


def test_teacher_weights_follow_their_stages() -> None:
    late = TeacherSettings(weight=2.0, start=3, warmup=4, end=9)
    given = [scheduled_weight(e, late) for e in (0, 2.99, 3, 4, 5, 7, 8.9, 9, 100)]
    assert given == pytest.approx([0, 0, 0, 0.5, 1, 2, 2, 0, 0])
    assert scheduled_weight(0, TeacherSettings()) == 1
    assert scheduled_weight(3, TeacherSettings(start=3)) == 1


def test_optimizer_state_goes_through_named_tensors() -> None:
    torch.manual_seed(0)
    one, x = Model(), torch.randn(8, 3)
    settings = OptimSettings(lr=0.01)
    a = build_optimizer(one, settings)
    for _ in range(3):
        a.zero_grad()
        one(x).square().sum().backward()
        a.step()
    two = Model()
    two.load_state_dict(one.state_dict())
    b = build_optimizer(two, settings)
    load_optimizer_tensors(b, {k: v.clone() for k, v in optimizer_tensors(a).items()})
    for model, optimizer in ((one, a), (two, b)):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    for p, q in zip(one.state_dict().values(), two.state_dict().values()):
        assert torch.equal(p, q)


def test_average_equals_the_plain_recursion() -> None:
    torch.manual_seed(0)
    model = Model()
    average = EMA(model, 0.9)
    expected = {k: v.detach().double() for k, v in model.named_parameters()}
    for step in range(120):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        model(torch.randn(5, 3))  # moves the running statistics
        average.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        for k, p in model.named_parameters():
            expected[k] = decay * expected[k] + (1 - decay) * p.detach().double()
    for k, value in expected.items():
        torch.testing.assert_close(average.tensors[k].double(), value, atol=1e-5, rtol=1e-5)
    for k, buffer in model.named_buffers():
        assert torch.equal(average.tensors[k], buffer)


def test_decay_of_all_parameters() -> None:
    groups = parameter_groups(Model(), OptimSettings(weight_decay=0.1, decay="all"))
    assert {g["weight_decay"] for g in groups} == {0.1}


@pytest.mark.parametrize("total", [40, 137])
def test_groups_by_name_equal_torch_with_its_cycled_momentum(total: int) -> None:
    """SceneSplat's and the released Chorus's optimiser: AdamW under OneCycleLR, blocks at a tenth, beta1 cycled."""
    optim = OptimSettings(
        lr=2e-3, block_lr_scale=0.1, decay="all", cycle_beta1=(0.85, 0.95), weight_decay=0.05, warmup=0.05
    )

    def model() -> nn.Module:
        torch.manual_seed(0)
        whole = nn.Module()
        whole.encoder = nn.ModuleDict({"embedding": nn.Linear(3, 4), "block0": nn.Linear(4, 4)})
        whole.head = nn.Linear(4, 2)
        return whole.double()

    ours, theirs = model(), model()
    optimizer = build_optimizer(ours, optim)
    named = dict(theirs.named_parameters())
    other = torch.optim.AdamW(
        [{"params": [p for n, p in named.items() if ("block" in n) == slow]} for slow in (False, True)],
        lr=2e-3, weight_decay=0.05,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        other, [2e-3, 2e-4], total_steps=total, pct_start=0.05, div_factor=10, final_div_factor=1000
    )
    rng = torch.Generator().manual_seed(1)
    for step in range(total):
        gradients = [torch.randn(p.shape, generator=rng, dtype=torch.float64) for p in ours.parameters()]
        for module in (ours, theirs):
            for parameter, gradient in zip(module.parameters(), gradients):
                parameter.grad = gradient.clone()
        set_learning_rate(optimizer, learning_rate(step, total, optim))
        set_first_beta(optimizer, first_beta(step, total, optim))
        assert first_beta(step, total, optim) == pytest.approx(other.param_groups[0]["betas"][0], rel=1e-9)
        optimizer.step()
        other.step()
        if step + 1 < total:
            schedule.step()
        for name, parameter in ours.named_parameters():
            torch.testing.assert_close(parameter, named[name], rtol=1e-9, atol=1e-12)


def test_a_cycled_beta_needs_one_cycle() -> None:
    with pytest.raises(ValueError, match="cycle_beta1 belongs to schedule"):
        OptimSettings(schedule="cosine", cycle_beta1=(0.85, 0.95))
