"""Stage 2 on the device: steps per second, and the share of a step's time that it waits for data."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from pathlib import Path

from chorus_common.runtime.config import load_config
from stage2_distill.distill import DistillRecipe
from stage2_distill.engine.distributed import Processes
from stage2_distill.engine.loop import Run
from stage2_distill.settings import TrainConfig
from tests.bench.bench_training import SETTINGS, TEACHERS, published_rooms
from tests.gpu_check.context import MIB, Context


def run(context: Context) -> None:
    """A row per precision and encoder: the benchmark's rooms (24,000 Gaussians each), two per step."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        data = published_rooms(Path(folder), TEACHERS)
        small = (
            "encoder.overrides.enc_channels=[8, 16]",
            "encoder.overrides.enc_depths=[1, 1]",
            "data.max_points=2000",
        )
        for name, encoder in (("bench", SETTINGS), ("chorus-3dgs", (*SETTINGS[:5], "encoder.preset=chorus-3dgs"))):
            for amp in ("off", "bf16"):
                context.check_time(12)
                if context.rehearse and (name, amp) != ("bench", "off"):
                    continue
                epochs = context.size(30, 2)
                settings = (*encoder, *context.size((), small), f"epochs={epochs}", f"amp={amp}", "data.workers=4")
                recipe = DistillRecipe(load_config(TrainConfig, None, settings), data, context.device)
                start = time.perf_counter()
                with contextlib.redirect_stderr(io.StringIO()):
                    done = Run(recipe, Path(folder) / f"{name}-{amp}", Processes(0, 1)).train()
                memory = torch.cuda.max_memory_allocated() / MIB if context.cuda else None
                context.add(
                    encoder=name, amp=amp, steps=done.steps, steps_per_s=done.steps / (time.perf_counter() - start),
                    waiting=done.starvation, skipped=done.skipped, mib=memory,
                )  # fmt: skip
