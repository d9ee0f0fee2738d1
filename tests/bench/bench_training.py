"""How long training waits for data: rooms with rendered lifting indices, the demo's encoder, two cores."""

from __future__ import annotations

import contextlib
import io
import itertools
import tempfile
from collections.abc import Callable
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
from tests.bench.measure import interleaved
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
        data = published_rooms(Path(folder), TEACHERS)
        starvation, datasets = {}, {}
        for name, memory in (("memo", 4096), ("lift", 0)):
            config = load_config(TrainConfig, None, (*SETTINGS, f"data.memory_mb={memory}"))
            starvation[name], datasets[name] = train(config, data, Path(folder) / name)
        samples = interleaved(next_sample(datasets["memo"]), next_sample(datasets["lift"]), rounds=2 * ROOMS)
        return [
            *adaptation(data, Path(folder) / "store"),
            lift_on_load(data),
            Row("stage2/starvation-share", starvation["memo"], "share of step time", starvation["memo"], COMMAND),
            Row("stage2/starvation-share-no-memory", starvation["lift"], "share of step time", starvation["lift"],
                COMMAND),
            samples.row("stage2/sample-remembered", "ms CPU per room", COMMAND, "read and lifted anew",
                        times_faster=True, scale=1e3),
            demo_starvation(),
        ]  # fmt: skip


def train(config: TrainConfig, data: TrainData, out: Path) -> tuple[float, CacheDataset]:
    """Share of the step time that a run waits for data, and its samples."""
    recipe = DistillRecipe(config, data, torch.device("cpu"))
    with contextlib.redirect_stderr(io.StringIO()):
        return Run(recipe, out, Processes(0, 1)).train().starvation, recipe.dataset


def demo_starvation() -> Row:
    """The demo's encoder and settings on rooms of its size, as one of its two processes: a thread, two rooms a step."""
    settings = ("epochs=6", "batch_size=2", "checkpoint_every=1000")
    config = load_config(TrainConfig, Path("evaluation/demo/stage2.toml"), settings)
    with tempfile.TemporaryDirectory() as folder:
        data = published_rooms(Path(folder), {"embedded-text": 64, "embedded-dense": 80})
        share, _ = train(config, data, Path(folder) / "run")
    return Row("demo/starvation-share", share, "share of step time, lower is better", share, COMMAND)


def next_sample(dataset: CacheDataset) -> Callable[[], object]:
    """Prepares one room after the other, at each call."""
    numbers = itertools.cycle(range(ROOMS))
    return lambda: dataset.sample(0, number := next(numbers), number)


def adaptation(data: TrainData, store: Path) -> list[Row]:
    """What image-level targets cost beside lifted ones: MB per room on disk, CPU seconds per view and sample.

    Whole rooms, all views, nothing remembered, no augmentation.
    """
    stored = lifted = 0
    for entry in data.scenes:
        folder = store / entry.dataset / f"{entry.scene_id}.zarr"
        parts = [folder / "lifting", *(folder / "teachers" / name for name in TEACHERS)]
        stored += sum(f.stat().st_size for part in parts for f in part.rglob("*") if f.is_file())
        lifted += 2 * len(entry.store.visibility()[0]) * sum(TEACHERS.values())

    def samples(objective: Objective) -> CacheDataset:
        return CacheDataset(
            data.scenes, TEACHERS, {}, preset_config("chorus-lite"), DataSettings(memory_mb=0, max_points=0),
            AugmentConfig(enabled=False), seed=0, batch_size=1, objective=objective,
        )  # fmt: skip

    rendered = samples("rendered")
    times = interleaved(next_sample(rendered), next_sample(samples("lifted")), rounds=ROOMS)
    scale = 1e-6 / len(data.scenes)
    return [
        Row(
            "stage2/adapt-mb-per-room", stored * scale, "MB", stored / lifted, COMMAND,
            baseline="lifted features in fp16", baseline_value=lifted * scale,
        ),
        times.row(
            "stage2/adapt-ms-per-view", "ms CPU per view", COMMAND, "read and lifted anew, per view",
            scale=1e3 / rendered.scenes[0].n_views,
        ),
    ]  # fmt: skip


def lift_on_load(data: TrainData) -> Row:
    """Lifting one decoded room: the index's own kernel, and a sparse product of torch."""
    store = data.scenes[0].store
    index = store.lifting()
    cells = np.concatenate([store.features(name).reshape(index.n_columns, -1) for name in TEACHERS], axis=1)
    matrix = SparseRows.of(
        sparse.csr_matrix((index.weights, index.columns, index.indptr), shape=(len(index), index.n_columns))
    )
    tensor = torch.from_numpy(cells)
    times = interleaved(lambda: index.lift(cells), lambda: matrix @ tensor, repeats=3)
    return times.row("stage2/lift-on-load", "ms CPU per room", COMMAND, "the same product by torch.sparse", scale=1e3)


def published_rooms(folder: Path, teachers: dict[str, int]) -> TrainData:
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
        for name, channels in teachers.items():
            mix = np.random.default_rng(channels).standard_normal((3, channels))
            flat = np.tanh((colors - 0.5) @ mix * 3).astype(np.float32)
            cells[name] = flat.reshape(index.n_views, grid.rows, grid.cols, channels)
        store = MemoryStore(room.scene.select(index.order), index, cells)
        entries.append(SceneEntry("rooms", f"room{seed}", f"seed{seed}", store))
    publish_store(folder / "store", entries, bits=4)
    return TrainData(open_scenes(find_scenes([folder / "store"], None, None, print)), [], make_standardisers(entries))
