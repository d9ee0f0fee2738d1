"""How long training waits for data: rooms with rendered lifting indices, the demo's encoder, two cores."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from chorus_common.config import load_config
from chorus_common.lifting import CellGrid, LiftingIndex
from chorus_common.synthetic import RoomOptions, generate_room
from stage1_render_teachers.rasterize import get_backend
from stage2_distill.data.dataset import SceneEntry
from stage2_distill.distributed import Ranks
from stage2_distill.run_folder import RunFolder
from stage2_distill.settings import TrainConfig
from stage2_distill.sources import find_scenes, open_scenes
from stage2_distill.start import TrainData
from stage2_distill.trainer import Trainer
from tests.bench.row import Row
from tests.stage2.store_fakes import MemoryStore, make_bases, publish_store

COMMAND = "python -m tests.bench training"
ROOMS, EPOCHS, TEACHERS = 4, 5, {"text": 64, "dense": 80}
SETTINGS = (
    f"epochs={EPOCHS}", "batch_size=2", "projector_hidden=192", "checkpoint_every=1000", "threads=2",
    "encoder.overrides.enc_channels=[32, 64, 128, 192]", "encoder.overrides.enc_depths=[2, 2, 2, 4]",
)  # fmt: skip


def rows() -> list[Row]:
    """Share of step time spent waiting for data, with targets remembered and lifted anew; cost of a sample."""
    with tempfile.TemporaryDirectory() as folder:
        data = published_rooms(Path(folder))
        shares, samples = {}, {}
        for name, memory in (("memo", 4096), ("lift", 0)):
            config = load_config(TrainConfig, None, (*SETTINGS, f"data.memory_mb={memory}"))
            trainer = Trainer(config, data, RunFolder(Path(folder) / name), torch.device("cpu"), Ranks(0, 1))
            with contextlib.redirect_stderr(io.StringIO()):
                shares[name] = trainer.run().starvation
            samples[name] = seconds_per_sample(trainer)
    return [
        Row("stage2/starvation-share", shares["memo"], "share of step time", shares["memo"], COMMAND),
        Row("stage2/starvation-share-no-memory", shares["lift"], "share of step time", shares["lift"], COMMAND),
        Row(
            "stage2/sample-remembered", 1e3 * samples["memo"], "ms CPU per room", samples["lift"] / samples["memo"],
            COMMAND,
            baseline="read and lifted anew", baseline_value=1e3 * samples["lift"],
        ),
    ]  # fmt: skip


def seconds_per_sample(trainer: Trainer) -> float:
    """Least CPU time of preparing one room, over the rooms of an epoch (the first pass has filled the memory)."""
    times = []
    for number in range(2 * ROOMS):
        start = time.process_time()
        trainer.dataset.sample(0, number % ROOMS, number % ROOMS)
        times.append(time.process_time() - start)
    return min(times)


def published_rooms(folder: Path) -> TrainData:
    """Rooms of about 24,000 Gaussians, 24 views of 320x240, cells of 8 pixels, smooth random teachers, on disk."""
    options = RoomOptions()
    grid = CellGrid(options.width, options.height, 8)
    backend = get_backend("cpu")
    entries = []
    for seed in range(ROOMS):
        room = generate_room(seed, options)
        hits = []
        for viewmat, intrinsics in zip(room.cameras.viewmats, room.cameras.intrinsics):
            rendered = backend.render(room.scene, viewmat, intrinsics, options.width, options.height, grid=grid)
            assert rendered.hits is not None
            hits.append(rendered.hits)
        index = LiftingIndex.build(hits, room.scene.means, grid)
        colors = index.render(room.scene.colors[index.order])[0]  # [V * cells, 3]
        cells = {}
        for name, channels in TEACHERS.items():
            mix = np.random.default_rng(channels).standard_normal((3, channels))
            flat = np.tanh((colors - 0.5) @ mix * 3).astype(np.float32)
            cells[name] = flat.reshape(index.n_views, grid.rows, grid.cols, channels)
        store = MemoryStore(room.scene.select(index.order), index, cells)
        entries.append(SceneEntry("rooms", f"room{seed}", f"seed{seed}", store))
    publish_store(folder / "store", entries)
    return TrainData(open_scenes(find_scenes([folder / "store"], None, None, print)), [], make_bases(entries))
