"""One optimiser step against the same step written plainly, on a linear model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from stage2_distill.engine.distributed import Processes
from stage2_distill.engine.recipe import Loss, Measured, Recipe
from stage2_distill.engine.schedule import learning_rate
from stage2_distill.engine.settings import EngineSettings, OptimSettings
from stage2_distill.engine.trainer import Trainer


@dataclass(frozen=True)
class Rows:
    x: Tensor
    y: Tensor
    scenes: tuple[str, ...] = ("made",)


class Regression(Recipe[Rows]):
    """Least squares on samples that are drawn by (step, number)."""

    model: nn.Linear

    def __init__(self, optim: OptimSettings, micro_batch: int = 0) -> None:
        self.config, self.optim = EngineSettings(micro_batch=micro_batch), optim
        self.identity, self.memory, self.steps, self.batch_size = {}, {}, 20, 6
        torch.manual_seed(0)
        self.model = nn.Linear(3, 2)
        self.seen: list[Mapping[str, float]] = []

    def batch(self, step: int, first: int, last: int) -> Rows:
        drawn = torch.randn(self.batch_size, 5, generator=torch.Generator().manual_seed(step))[first:last]
        return Rows(drawn[:, :3], drawn[:, 3:])

    def loss(self, batch: Rows, step: int) -> Loss:
        found = (self.model(batch.x) - batch.y).square().mean()
        return Loss(found, {"a/b": Measured({"error": found.detach()})}, {"rows": float(len(batch.x))})

    def after_step(self, averaged: Mapping[str, float]) -> None:
        self.seen.append(averaged)

    def save(self, folder: Path, weights: Mapping[str, Tensor], step: int, *, final: bool) -> None:
        raise NotImplementedError


@given(micro=st.sampled_from([0, 1, 2, 3, 6]), clip=st.sampled_from([0.0, 0.05, 10.0]), ema=st.sampled_from([0.0, 0.5]))
def test_steps_equal_the_plain_loop(micro: int, clip: float, ema: float) -> None:
    optim = OptimSettings(lr=0.1, clip=clip, ema=ema, schedule="cosine")
    recipe = Regression(optim, micro)
    plain = copy.deepcopy(recipe.model)
    trainer = Trainer(recipe, Processes(0, 1))
    averaged = {k: v.detach().clone() for k, v in plain.state_dict().items()}
    groups = [{"params": [plain.weight], "weight_decay": 0.05}, {"params": [plain.bias], "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=0.1, betas=optim.betas)
    for step in range(8):
        result = trainer.step(step)
        for group in adam.param_groups:
            group["lr"] = learning_rate(step, 20, optim)
        batch = recipe.batch(step, 0, 6)
        loss = (plain(batch.x) - batch.y).square().mean()
        adam.zero_grad()
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in plain.parameters() if p.grad is not None]).norm()
        if clip > 0:
            torch.nn.utils.clip_grad_norm_(plain.parameters(), clip)
        adam.step()
        decay = min(ema, (1 + step) / (10 + step))
        averaged = {k: decay * averaged[k] + (1 - decay) * v.detach() for k, v in plain.state_dict().items()}
        assert result.record["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert result.record["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
        assert result.record["a"]["b"]["error"] == pytest.approx(loss.item(), rel=1e-5)
        assert recipe.seen[-1] == {"rows": pytest.approx(micro or 6)}
        assert result.warning == ""
    for key, value in trainer.weights().items():
        torch.testing.assert_close(value, averaged[key] if ema else plain.state_dict()[key], atol=1e-5, rtol=1e-4)


def test_a_step_without_anything_to_learn_changes_nothing() -> None:
    recipe = Regression(OptimSettings(weight_decay=0.0))
    recipe.loss = lambda batch, step: Loss(None, averaged={"rows": 0.0})  # type: ignore[method-assign]
    before = {k: v.clone() for k, v in recipe.model.state_dict().items()}
    result = Trainer(recipe, Processes(0, 1)).step(0)
    assert result.record["grad_norm"] == 0
    assert all(torch.equal(v, before[k]) for k, v in recipe.model.state_dict().items())
