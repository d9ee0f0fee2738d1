"""One optimiser step of any recipe: accumulation, mixed precision, clipping, skipped steps, EMA, processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch
from torch import Tensor, nn

from chorus_common.runtime.errors import ChorusError, ConfigError
from stage2_distill.engine.checkpointing import TrainingProgress, load_state, state_tensors
from stage2_distill.engine.distributed import Processes
from stage2_distill.engine.ema import EMA
from stage2_distill.engine.interruptions import StopRequest
from stage2_distill.engine.means import Means, Number, read_numbers
from stage2_distill.engine.move import to_device
from stage2_distill.engine.optim import set_first_beta, set_learning_rate
from stage2_distill.engine.recipe import B, Recipe
from stage2_distill.engine.schedule import first_beta, learning_rate
from stage2_distill.engine.sharding import clip_gradients, gathered, shard
from stage2_distill.engine.synced_norm import synchronise_batch_norm


@dataclass(frozen=True)
class StepResult:
    """record: for the log. warning: why the step was skipped ("" = it was not). stop: a process was asked to end."""

    record: dict[str, Any]
    warning: str
    stop: bool


class Trainer(Generic[B]):
    """A recipe in training, in memory: model, optimiser, EMA and progress of one process.

    Raises ConfigError where the processes cannot share a batch evenly, or not the recipe's model.
    """

    def __init__(self, recipe: Recipe[B], processes: Processes) -> None:
        self.recipe, self.processes = recipe, processes
        first, last = processes.share(recipe.batch_size)
        size = recipe.config.micro_batch or last - first
        #: Samples of each forward pass, and their share of this process's part of the batch.
        self._passes = [(a, min(a + size, last)) for a in range(first, last, size)]
        self._shares = [(b - a) / (last - first) for a, b in self._passes]
        recipe.prepare(processes)
        self.model = recipe.model
        self.device = next(self.model.parameters()).device
        if processes.world > 1 and recipe.config.sync_batch_norm:
            synchronise_batch_norm(self.model)
        self._units: Sequence[nn.Module] = ()
        if recipe.config.sharding == "full":
            self._units = recipe.shard_units()
            if not self._units:
                raise ConfigError(f'sharding = "full" is not offered for {recipe.activity}; leave it out')
            if processes.world > 1:
                shard(self._units, self.device)
        self.optimizer = recipe.make_optimizer()
        self.ema = EMA(self.model, recipe.optim.ema) if recipe.optim.ema > 0 else None
        self.progress = TrainingProgress()

    def weights(self) -> dict[str, Tensor]:
        """The state dict that counts: averaged where `optim.ema` asks for it. All processes must ask; it is whole in
        the first one.
        """
        tensors = self.model.state_dict() if self.ema is None else self.ema.tensors
        return gathered(tensors, keep=self.processes.main)

    def state(self) -> dict[str, Tensor]:
        """Tensors of the training state. All processes must ask; they are whole in the first one."""
        return gathered(state_tensors(self.model, self.optimizer, self.ema), keep=self.processes.main)

    def load(self, path: Path) -> None:
        """Go on from a saved state, made by any number of processes. WeightsError where it is damaged."""
        self.progress = load_state(path, self.model, self.optimizer, self.ema)
        self.recipe.memory.update(self.progress.memory)

    def batches(self, step: int) -> list[B]:
        """This process's share of the batch of `step`, as the micro-batches of its forward passes."""
        return [self.recipe.batch(step, first, last) for first, last in self._passes]

    def step(self, step: int, batches: Sequence[B] | None = None, request: StopRequest | None = None) -> StepResult:
        """Optimiser step `step`, counted from 0: a function of the state, the settings and `step` alone.

        Args:
            batches: `self.batches(step)`, where they were made ahead. request: may ask this process to end.

        Raises ChorusError after `max_bad_steps` non-finite steps in a row.
        """
        recipe, config, model, optim = self.recipe, self.recipe.config, self.model, self.recipe.optim
        batches = self.batches(step) if batches is None else batches
        model.train()
        lr = learning_rate(step, recipe.steps, optim)
        set_learning_rate(self.optimizer, lr)
        if optim.cycle_beta1 is not None:
            set_first_beta(self.optimizer, first_beta(step, recipe.steps, optim))
        statistics = [b.clone() for b in model.buffers()]
        means = Means()
        losses: list[tuple[Number, float]] = []  # with the share of the batch that each counts for
        averaged: list[Mapping[str, Number]] = []
        learning = [0] * len(self._units)  # passes in which a unit had something to learn
        for batch, share in zip(batches, self._shares):
            # the model's draws are a function of (seed, step), the same in all forward passes and processes of a step
            torch.manual_seed(recipe.seed(step))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=config.amp == "bf16"):
                found = recipe.loss(to_device(batch, self.device), step)
            averaged.append(found.averaged)
            learning = [passes + (unit not in found.idle) for passes, unit in zip(learning, self._units)]
            if found.total is None:
                continue
            (found.total * share).backward()
            losses.append((found.total.detach(), share))
            for group, measured in found.measured.items():
                means.add(group, measured.values, measured.weight, share)
        self._forget_idle(learning)
        self.processes.average_gradients(model)
        gradient = clip_gradients(model.parameters(), optim.clip or math.inf)
        # the one place where the host waits for the device
        asked = [gradient, *(x for x, _ in losses), *(x for found in averaged for x in found.values())]
        read = read_numbers([*asked, *means.numbers])
        norm, *rest = read[: len(asked)]
        loss = sum(value * share for value, (_, share) in zip(rest, losses))
        own = _weighted(averaged, rest[len(losses) :], self._shares)
        finite = math.isfinite(loss) and math.isfinite(norm)
        # all processes skip, stop and remember alike
        stop = request is not None and request.made
        mine = torch.tensor([not finite, stop, *own.values()], dtype=torch.float64)
        bad, stops, *sums = self.processes.sum(mine if self.processes.world == 1 else mine.to(self.device)).tolist()
        warning = ""
        if bad > 0:
            for buffer, saved in zip(model.buffers(), statistics):
                buffer.copy_(saved)
            warning = self._skip(step, batches)
        else:
            self.optimizer.step()
            if not config.sync_batch_norm:
                self.processes.average_statistics(model)
            if self.ema is not None:
                self.ema.update(model, step)
            self.progress.bad_steps = 0
            recipe.after_step({name: value / self.processes.world for name, value in zip(own, sums)})
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step = step + 1
        epoch = {"epoch": step / recipe.steps_per_epoch} if recipe.steps_per_epoch > 0 else {}
        record = {"loss": loss, "lr": lr, "grad_norm": norm, **epoch, **means.nested(read[len(asked) :])}
        return StepResult(record, warning, stops > 0)

    def _forget_idle(self, learning: list[int]) -> None:
        """No gradients for units that no process had anything to teach, as without sharding: zeros would decay them."""
        if self._units:
            of_all = self.processes.sum(torch.tensor(learning, dtype=torch.float32, device=self.device))
            for unit, passes in zip(self._units, of_all.tolist()):
                if passes == 0:
                    unit.zero_grad(set_to_none=True)

    def _skip(self, step: int, batches: Sequence[B]) -> str:
        """Count a non-finite step; give up after several in a row. Weights and moments stay as they were."""
        progress, recipe = self.progress, self.recipe
        progress.bad_steps += 1
        progress.skipped += 1
        scenes = ", ".join(dict.fromkeys(name for batch in batches for name in batch.scenes))
        if progress.bad_steps >= recipe.config.max_bad_steps:
            raise ChorusError(
                f"{recipe.activity} gave up: {progress.bad_steps} steps in a row were not finite, the last (step "
                f"{step}) on scenes {scenes}; {recipe.advice}"
            )
        return f"warning: step {step}: loss or gradient is not finite, step skipped (scenes {scenes})"


def _weighted(
    averaged: Sequence[Mapping[str, Number]], read: Sequence[float], shares: Sequence[float]
) -> dict[str, float]:
    """Means by name over the forward passes; `read`: their numbers, one pass after the other."""
    out: dict[str, float] = {}
    numbers = iter(read)
    for found, share in zip(averaged, shares):
        for name in found:
            out[name] = out.get(name, 0.0) + next(numbers) * share
    return out
