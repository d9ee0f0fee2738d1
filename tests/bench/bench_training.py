"""How long training waits for data: rooms with rendered lifting indices, the demo's encoder, two cores."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

from chorus_common.lifting import CellGrid, LiftingIndex
from chorus_common.rasterize import get_backend
from chorus_common.runtime.config import load_config
from data_manifests.synthetic import RoomOptions, generate_room
from stage2_distill.data.augment import AugmentConfig
from stage2_distill.data.dataset import CacheDataset, SceneEntry
from stage2_distill.distill import DistillRecipe
from stage2_distill.encoder import preset_config
from stage2_distill.engine.distributed import Processes
from stage2_distill.engine.loop import Run
from stage2_distill.settings import DataSettings, Objective, TrainConfig
from stage2_distill.sources import find_scenes, open_scenes
from stage2_distill.sparse_rows import SparseRows
from stage2_distill.start import TrainData
from tests.bench.row import Row
from tests.stage2.store_fakes import MemoryStore, make_standardisers, publish_store

COMMAND = "python -m tests.bench training"
ROOMS, EPOCHS, TEACHERS = 4, 5, {"text": 64, "dense": 80}
SETTINGS = (
    f"epochs={EPOCHS}", "batch_size=2", "projector_hidden=192", "checkpoint_every=1000", "threads=2",
    "encoder.overrides.enc_channels=[32, 64, 128, 192]", "encoder.overrides.enc_depths=[2, 2, 2, 4]",
)  # fmt: skip


def rows() -> list[Row]:
    """Share of step time spent waiting for data, with targets remembered and lifted anew; cost of a sample; what
    adaptation stores and computes.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = published_rooms(Path(folder))
        shares, samples = {}, {}
        for name, memory in (("memo", 4096), ("lift", 0)):
            config = load_config(TrainConfig, None, (*SETTINGS, f"data.memory_mb={memory}"))
            recipe = DistillRecipe(config, data, torch.device("cpu"))
            with contextlib.redirect_stderr(io.StringIO()):
                shares[name] = Run(recipe, Path(folder) / name, Processes(0, 1)).train().starvation
            samples[name] = seconds_per_sample(recipe.dataset)
        adapt = adaptation(data, Path(folder) / "store")
        here, device = lift_seconds(data)
    return [
        Row(
            "stage2/adapt-mb-per-room", adapt.stored_mb, "MB", adapt.stored_mb / adapt.lifted_mb, COMMAND,
            baseline="lifted features in fp16", baseline_value=adapt.lifted_mb,
        ),
        Row(
            "stage2/adapt-ms-per-view", 1e3 * adapt.rendered_s, "ms CPU per view", adapt.rendered_s / adapt.lifted_s,
            COMMAND, baseline="read and lifted anew, per view", baseline_value=1e3 * adapt.lifted_s,
        ),
        Row(
            "stage2/lift-on-load", 1e3 * here, "ms CPU per room", here / device, COMMAND,
            baseline="the same product by torch.sparse", baseline_value=1e3 * device,
        ),
        Row("stage2/starvation-share", shares["memo"], "share of step time", shares["memo"], COMMAND),
        Row("stage2/starvation-share-no-memory", shares["lift"], "share of step time", shares["lift"], COMMAND),
        Row(
            "stage2/sample-remembered", 1e3 * samples["memo"], "ms CPU per room", samples["lift"] / samples["memo"],
            COMMAND,
            baseline="read and lifted anew", baseline_value=1e3 * samples["lift"],
        ),
    ]  # fmt: skip


@dataclass(frozen=True)
class Adaptation:
    """What image-level targets cost beside lifted ones: MB per room on disk, CPU seconds per view and sample."""

    stored_mb: float
    lifted_mb: float
    rendered_s: float
    lifted_s: float


def adaptation(data: TrainData, store: Path) -> Adaptation:
    """Whole rooms, all views, nothing remembered, no augmentation."""
    stored = lifted = 0
    for entry in data.scenes:
        folder = store / entry.dataset / f"{entry.scene_id}.zarr"
        parts = [folder / "lifting", *(folder / "teachers" / name for name in TEACHERS)]
        stored += sum(f.stat().st_size for part in parts for f in part.rglob("*") if f.is_file())
        lifted += 2 * len(entry.store.visibility()[0]) * sum(TEACHERS.values())
    seconds: dict[str, float] = {}
    objectives: tuple[Objective, ...] = ("rendered", "lifted")
    for objective in objectives:
        dataset = CacheDataset(
            data.scenes, TEACHERS, {}, preset_config("chorus-lite"), DataSettings(memory_mb=0, max_points=0),
            AugmentConfig(enabled=False), seed=0, batch_size=1, objective=objective,
        )  # fmt: skip
        times = []
        for number in range(ROOMS):
            start = time.process_time()
            dataset.sample(0, number, number)
            times.append((time.process_time() - start) / dataset.scenes[number].n_views)
        seconds[objective] = min(times)
    count = len(data.scenes) * 1e6
    return Adaptation(stored / count, lifted / count, seconds["rendered"], seconds["lifted"])


def lift_seconds(data: TrainData) -> tuple[float, float]:
    """CPU seconds of lifting one decoded room: the index's own kernel, and a sparse product of torch."""
    store = data.scenes[0].store
    index = store.lifting()
    cells = np.concatenate([store.features(name).reshape(index.n_columns, -1) for name in TEACHERS], axis=1)
    matrix = SparseRows.of(
        sparse.csr_matrix((index.weights, index.columns, index.indptr), shape=(len(index), index.n_columns))
    )
    tensor = torch.from_numpy(cells)
    times: dict[str, list[float]] = {"here": [], "device": []}
    for _ in range(4):
        start = time.process_time()
        index.lift(cells)
        times["here"].append(time.process_time() - start)
        start = time.process_time()
        matrix @ tensor
        times["device"].append(time.process_time() - start)
    return min(times["here"]), min(times["device"])


def seconds_per_sample(dataset: CacheDataset) -> float:
    """Least CPU time of preparing one room, over the rooms of an epoch (the first pass has filled the memory)."""
    times = []
    for number in range(2 * ROOMS):
        start = time.process_time()
        dataset.sample(0, number % ROOMS, number % ROOMS)
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
    publish_store(folder / "store", entries, bits=4)
    return TrainData(open_scenes(find_scenes([folder / "store"], None, None, print)), [], make_standardisers(entries))
