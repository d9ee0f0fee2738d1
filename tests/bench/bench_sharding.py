"""What one of two processes holds of the full-size student, with its encoder shared out and without: counted bytes of
parameters, gradients, moments and average, and the largest resident size of the process.

`chorus-3dgs` with heads of 1152, 1024 and 1024 channels as the released Chorus has them; one step on a small scene.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.bench.row import Row

COMMAND = "python -m tests.bench sharding"
TEACHERS = {"lang": 1152, "dino": 1024, "pe_spatial": 1024}
WORLD = 2


def rows() -> list[Row]:
    held = {sharding: measure(sharding) for sharding in ("none", "full")}
    whole, share = held["none"], held["full"]
    units = {"held": "MB per process", "peak": "MB resident, the largest of a step"}
    return [
        Row(
            f"stage2/sharded-{name}", share[name] * 1e-6, unit, share[name] / whole[name], COMMAND,
            baseline="all of it in each of the two processes", baseline_value=whole[name] * 1e-6,
        )
        for name, unit in units.items()
    ]  # fmt: skip


def measure(sharding: str) -> dict[str, int]:
    """Bytes that the first of two processes holds, and its peak."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    env = os.environ | {
        "WORLD_SIZE": str(WORLD), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": "0",
        "MALLOC_MMAP_THRESHOLD_": "65536",  # what is freed is given back, so that the resident size is what is in use
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.bench.bench_sharding", sharding]
    pair = [
        subprocess.Popen(command, env=env | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(WORLD)
    ]
    said = [process.communicate()[0] for process in pair]
    if any(process.returncode for process in pair):
        raise RuntimeError("a process failed")
    found: dict[str, int] = json.loads(said[0].splitlines()[-1])
    print(f"  sharding {sharding}: {json.dumps(found)}")
    return found


def one_process(sharding: str) -> dict[str, int]:
    """Make a step in this process of the group, and count."""
    import torch

    from chorus_common.runtime.config import load_config
    from stage2_distill.distill import DistillRecipe
    from stage2_distill.engine.loop import launch
    from stage2_distill.engine.trainer import Trainer
    from stage2_distill.settings import TrainConfig
    from stage2_distill.start import TrainData
    from tests.stage2.engine.shares import held_bytes, whole_bytes
    from tests.stage2.store_fakes import make_entries, make_standardisers

    settings = (
        "encoder.preset=chorus-3dgs", "epochs=2", "batch_size=2", "threads=1", "data.max_points=300",
        "projector_hidden=4928", "projector_layout=norm_input", f"sharding={sharding}",
    )  # fmt: skip
    device = torch.device("cpu")
    config = load_config(TrainConfig, None, settings)
    entries = make_entries(scenes=2, n=300, teachers=TEACHERS)
    with launch(config, device) as processes:
        recipe = DistillRecipe(config, TrainData(entries, [], make_standardisers(entries)), device)
        trainer = Trainer(recipe, processes)
        recipe.plain = None  # type: ignore[assignment]  # the copy that students are saved from is no part of a step
        gc.collect()
        trainer.step(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is that of a later step, not of the start
        before = _resident("VmRSS")
        held = held_bytes(trainer, 1)
        peak, all_of_it = _resident("VmHWM"), whole_bytes(trainer.model)
    return held | {"held": sum(held.values()), "all weights": all_of_it, "between steps": before, "peak": peak}


def _resident(what: str) -> int:
    """A size of this process in bytes, as the kernel counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(one_process(sys.argv[1])))
