"""A small training run as a process: python -m tests.stage2.train_child OUT [key=value ...] [--kill-at=STEP].

`--kill-at` sends the process SIGKILL right after that step, `--kill-in-save` while the state is written after it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from chorus_common.runtime import atomic
from chorus_common.runtime.config import load_config
from chorus_common.runtime.errors import run_cli
from stage2_distill.distill import DistillRecipe, train
from stage2_distill.engine import loop
from stage2_distill.engine.distributed import Processes
from stage2_distill.engine.loop import Run, RunResult
from stage2_distill.settings import TrainConfig
from stage2_distill.start import TrainData
from tests.stage2.store_fakes import MemoryStore, make_entries, make_standardisers

TINY: tuple[str, ...] = (
    "epochs=4", "batch_size=2", "projector_hidden=16", "checkpoint_every=3", "threads=1", "optim.lr=0.005",
    "encoder.overrides.enc_channels=[8, 16]", "encoder.overrides.enc_depths=[1, 1]", "encoder.overrides.drop_path=0.2",
    "encoder.overrides.inputs.grid_size=0.1", "data.max_points=150",
)  # fmt: skip


def tiny_config(*settings: str) -> TrainConfig:
    """A run of a few seconds: 4 scenes, 4 epochs, 8 steps."""
    return load_config(TrainConfig, None, (*TINY, *settings))


def tiny_data(text_only: int = 0) -> TrainData:
    """Four scenes, of which the first `text_only` have nothing of the teacher "dense"."""
    entries = make_entries(scenes=4, n=200)
    for entry in entries[:text_only]:
        assert isinstance(entry.store, MemoryStore)
        del entry.store.cells["dense"]
    return TrainData(entries, entries[:1], make_standardisers(entries))


def run_tiny(out: Path, *settings: str, text_only: int = 0) -> RunResult:
    """Train on `tiny_data` in this process."""
    return train(tiny_config(*settings), tiny_data(text_only), out, torch.device("cpu"))


def tiny_run(out: Path, config: TrainConfig, data: TrainData) -> Run[Any]:
    """A run in one process that has not begun yet."""
    return Run(DistillRecipe(config, data, torch.device("cpu")), out, Processes(0, 1))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_after(step_to_die: int) -> None:
    after: Any = Run._after_step

    def patched(self: Run[Any], step: int, *rest: Any) -> None:
        after(self, step, *rest)
        if step == step_to_die:
            die()

    Run._after_step = patched  # type: ignore[method-assign]


def kill_in_save(step_to_die: int) -> None:
    save: Any = loop.save_state

    def patched(path: Path, progress: Any, *rest: Any) -> None:
        if progress.step > step_to_die:
            atomic.os.replace = lambda *_: die()  # type: ignore[assignment]
        save(path, progress, *rest)

    loop.save_state = patched


def report(result: RunResult) -> None:
    print(f"{result.steps} steps", file=sys.stderr)


def main() -> None:
    out, *arguments = sys.argv[1:]
    settings = [a for a in arguments if not a.startswith("--")]
    text_only = 0
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name == "--text-only":
            text_only = int(value)
        if name == "--kill-at":
            kill_after(int(value))
        if name == "--kill-in-save":
            kill_in_save(int(value))
    run_cli(lambda: report(run_tiny(Path(out), *settings, text_only=text_only)))


if __name__ == "__main__":
    main()
