"""A run: every step that is left of a recipe, in a folder that can be killed at any moment and gone on with."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

import torch

from chorus_common.runtime.devices import choose_precision
from chorus_common.runtime.progress import Progress as Reporter
from chorus_common.runtime.progress import progress as report_progress
from stage2_distill.engine.checkpointing import save_state
from stage2_distill.engine.distributed import Processes, process_group
from stage2_distill.engine.interruptions import stop_on_signal, survive_full_disk
from stage2_distill.engine.logs import RunLog
from stage2_distill.engine.prefetch import Prefetcher
from stage2_distill.engine.recipe import B, Recipe
from stage2_distill.engine.run_folder import RunFolder
from stage2_distill.engine.settings import EngineSettings
from stage2_distill.engine.trainer import Trainer


@dataclass(frozen=True)
class RunResult:
    """Steps done, steps skipped for non-finite numbers, and the share of step time that was spent waiting for data
    (since the run was last started).
    """

    steps: int
    skipped: int
    starvation: float


@contextlib.contextmanager
def launch(config: EngineSettings, device: torch.device) -> Iterator[Processes]:
    """Set PyTorch's threads and join torchrun's processes, if there are several. A recipe is built inside."""
    if config.threads > 0:
        torch.set_num_threads(config.threads)
    with process_group(device) as processes:
        yield processes


class Run(Generic[B]):
    """One run in one process, new or gone on with from the state in its folder.

    Raises ConfigError where the folder holds another run, WeightsError where its state is damaged.
    """

    def __init__(self, recipe: Recipe[B], out: str | Path, processes: Processes) -> None:
        self.recipe, self.processes, self.folder = recipe, processes, RunFolder(out)
        self.folder.check(recipe.identity)
        self.trainer = Trainer(recipe, processes)
        if self.folder.state.exists():
            self.trainer.load(self.folder.state)
        if processes.main:  # last: a start that is refused leaves the folder free
            self.folder.record(recipe.identity)

    def train(self) -> RunResult:
        """All steps that are left. KeyboardInterrupt, with the state saved, on Ctrl-C or SIGTERM."""
        recipe, trainer, start = self.recipe, self.trainer, self.trainer.progress.step
        waited = spent = 0.0
        batches = Prefetcher(trainer.batches, start, recipe.steps, workers=recipe.workers, prefetch=recipe.prefetch)
        with contextlib.ExitStack() as stack:
            log = reporter = None
            if self.processes.main:
                log = stack.enter_context(contextlib.closing(RunLog(self.folder, start, recipe.config.wandb)))
                reporter = stack.enter_context(report_progress(recipe.steps, recipe.label, done=start))
                if recipe.config.amp == "bf16" and (line := choose_precision("bf16", trainer.device)[1]):
                    reporter.say(line)
            request = stack.enter_context(stop_on_signal())
            note, began = "", time.perf_counter()
            for step, batch in enumerate(batches, start):
                result = trainer.step(step, batch, request)
                now = time.perf_counter()
                if step > start:  # the first step fills the pipeline
                    waited, spent = waited + batches.waited, spent + now - began
                if log is not None and step % recipe.log_every == 0:
                    times = {"wait_s": round(batches.waited, 4), "step_s": round(now - began, 4)}
                    log.write("step", step, result.record | times)
                    note = f"{recipe.note(result.record)}, waiting for data {waited / spent if spent else 0.0:.0%}"
                began = now
                if reporter is not None:
                    if result.warning:
                        reporter.say(result.warning)
                    reporter.advance(1, note)
                self._after_step(step, log, reporter)
                if result.stop:
                    self._save(reporter, final=False)
                    raise KeyboardInterrupt
        self._save(None, final=True)
        return RunResult(recipe.steps, trainer.progress.skipped, waited / spent if spent else 0.0)

    def _after_step(self, step: int, log: RunLog | None, reporter: Reporter | None) -> None:
        recipe, done = self.recipe, step + 1
        if done == recipe.steps or (recipe.validate_every > 0 and done % recipe.validate_every == 0):
            self._validate(step, log, reporter)
        if done % recipe.config.checkpoint_every == 0 and done < recipe.steps:
            self._save(reporter, final=False)

    def _validate(self, step: int, log: RunLog | None, reporter: Reporter | None) -> None:
        """Log a validation pass and keep what was best."""
        weights = self.trainer.weights()
        if log is None or reporter is None:
            return
        found = self.recipe.validate(weights, step + 1)
        if found is None:
            return
        log.write("validation", step, dict(found.record))
        reporter.say(f"validation after step {step + 1}: {found.line}")
        progress = self.trainer.progress
        if found.value is not None and found.value < progress.best:
            progress.best = found.value
            if found.save is not None:
                with survive_full_disk(reporter.say, "the best model is not saved; the previous one is kept"):
                    found.save(self.folder.best)

    def _save(self, reporter: Reporter | None, *, final: bool) -> None:
        """State, and what the recipe saves. A full disk in mid-run costs one checkpoint, not the run."""
        trainer, progress = self.trainer, self.trainer.progress
        state, weights = trainer.state(), trainer.weights()
        if not self.processes.main:
            return
        progress.memory = dict(self.recipe.memory)
        cost = "checkpoint not saved; the previous one is kept"
        with contextlib.nullcontext() if reporter is None else survive_full_disk(reporter.say, cost):
            save_state(self.folder.state, progress, state)
            self.recipe.save(self.folder.path, weights, progress.step, final=final)
