"""A recipe: what one kind of training adds to the loop. The loop asks it for batches, losses and what to save."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from stage2_distill.engine.distributed import Processes
from stage2_distill.engine.means import Number
from stage2_distill.engine.optim import build_optimizer
from stage2_distill.engine.seeds import model_seed
from stage2_distill.engine.settings import EngineSettings, OptimSettings


class NamedBatch(Protocol):
    """A batch knows the scenes it comes from, for messages."""

    @property
    def scenes(self) -> tuple[str, ...]: ...


B = TypeVar("B", bound=NamedBatch)


@dataclass(frozen=True)
class Measured:
    """Scalars for the log, and how much they count beside those of other forward passes of the same step."""

    values: Mapping[str, Number]
    weight: Number = 1.0


@dataclass(frozen=True, eq=False)
class Loss:
    """What a forward pass found.

    Attributes:
        total: scalar to minimise, a mean over the batch's samples; None where the batch has nothing to teach.
        measured: group of the log -> values; "a/b" is a group b in a group a, "" the top of the record.
        averaged: numbers that the recipe gets back in `after_step` as their mean over the whole batch and all
            processes. Every forward pass has the same ones, in the same order. They are read from the device after the
            backward pass, with everything else.
        idle: of `Recipe.shard_units`, those that were called for the other processes' sake alone.
    """

    total: Tensor | None
    measured: Mapping[str, Measured] = field(default_factory=dict)
    averaged: Mapping[str, Number] = field(default_factory=dict)
    idle: Sequence[nn.Module] = ()


@dataclass(frozen=True)
class Validation:
    """A validation pass.

    Attributes:
        record: for the log. line: for the terminal.
        value: the lower, the better; None where nothing is compared.
        save: writes what was validated into a folder, asked for where `value` is the lowest so far.
    """

    record: Mapping[str, Any]
    line: str
    value: float | None = None
    save: Callable[[Path], None] | None = None


class Recipe(ABC, Generic[B]):
    """What is trained, on what, and how it is judged and saved.

    Attributes:
        config, optim: settings of the loop and of the optimiser.
        model: what is trained; complete, and on its device, once `prepare` has run.
        steps: length of the run; steps_per_epoch: of an epoch (0 = there are none). batch_size: samples per step, over
            all processes.
        identity: everything that decides what the run computes, as JSON values; a folder that holds another run is
            refused. Known before `prepare`.
        memory: numbers that a resumed run needs beside weights and optimiser; saved with them.
        activity, label: what it is called in messages and in the progress bar. advice: what to do about losses that are
            not finite.
        workers, prefetch: threads that prepare batches ahead (0 = none), and how many batches.
        log_every: steps between two records of the log. validate_every: steps between validations (0 = at the end).
    """

    config: EngineSettings
    optim: OptimSettings
    model: nn.Module
    steps: int
    batch_size: int
    identity: Mapping[str, Any]
    memory: dict[str, float]
    processes: Processes = Processes(0, 1)
    activity: str = "training"
    label: str = "train"
    advice: str = "lower optim.lr"
    steps_per_epoch: int = 0
    workers: int = 0
    prefetch: int = 4
    log_every: int = 1
    validate_every: int = 0

    def prepare(self, processes: Processes) -> None:
        """Whatever takes time and is not needed to know whether the folder holds another run."""
        self.processes = processes

    def shard_units(self) -> Sequence[nn.Module]:
        """Parts of `model` that `config.sharding` may share out among processes, inner ones first; () = none.

        They are called through their forward, the same ones in the same order in every forward pass of every process:
        the processes wait for each other there.
        """
        return ()

    def make_optimizer(self) -> torch.optim.Optimizer:
        """The optimiser of `model`; its groups carry "names" and "lr_scale" (`optim.parameter_groups`)."""
        return build_optimizer(self.model, self.optim)

    def seed(self, step: int) -> int:
        """Seed of torch's generator for each forward pass of `step`."""
        return model_seed(self.config.seed, step + 1)

    @abstractmethod
    def batch(self, step: int, first: int, last: int) -> B:
        """Samples first..last-1 of the batch of `step`: a pure function, called ahead from several threads."""

    @abstractmethod
    def loss(self, batch: B, step: int) -> Loss:
        """The loss of one forward pass; the batch is on the device. It runs under autocast where `config.amp` says
        so.
        """

    def after_step(self, averaged: Mapping[str, float]) -> None:
        """Called after every step that was not skipped, with the means of `Loss.averaged`."""

    def validate(self, weights: Mapping[str, Tensor], step: int) -> Validation | None:
        """Judge the model with `weights` after `step` steps, in the first process alone; None: nothing to judge."""
        return None

    @abstractmethod
    def save(self, folder: Path, weights: Mapping[str, Tensor], step: int, *, final: bool) -> None:
        """Write what others read of the run, beside the training state, into its folder.

        weights: averaged where `optim.ema` asks for it. final: the run is over; before, a checkpoint should be cheap.
        """

    def note(self, record: Mapping[str, Any]) -> str:
        """A record of the log in a few words, for the progress bar."""
        return f"loss {record['loss']:.3f}"
