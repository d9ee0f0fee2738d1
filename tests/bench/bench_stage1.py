"""Stage 1: what everything around the teachers costs, how two workers scale, what a scene costs the client."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from chorus_common.camera_io import write_transforms_json
from chorus_common.cluster.pool import open_pool, worker_environment
from chorus_common.lifting import CellGrid
from chorus_common.manifest import ManifestRow, path_digest
from chorus_common.runtime.processes import in_child
from chorus_common.scene_io import write_npy_folder
from data_manifests.synthetic import RoomOptions, generate_room
from stage1_render_teachers import scene_task
from stage1_render_teachers.outcomes import OutcomeLog, read_outcomes
from stage1_render_teachers.plan import describe_teachers, plan_teachers
from stage1_render_teachers.run import run_jobs, run_stage1
from stage1_render_teachers.scene_task import SceneJob, run_scene
from stage1_render_teachers.settings import CalibrationConfig, RunConfig, Stage1Config
from stage1_render_teachers.teachers.dense_classical import ClassicalDenseTeacher
from tests.bench.measure import Rounds, interleaved, seconds
from tests.bench.row import Row
from tests.bench.stage1_client import client_of
from tests.bench.stage1_jobs import Quiet, warm_up, work_alone

COMMAND = "python -m tests.bench stage1"
CONFIG = Stage1Config(teachers=("embedded:dense",), calibration=CalibrationConfig(scenes=1, views=2))
#: Steps of a scene that a run without teachers would not have.
TEACHER_STEPS = ("embedded-dense",)
#: How often one and two workers take turns.
TURNS = 3


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        return [
            overhead_share(root / "overhead"),
            overlap(root / "overlap"),
            two_workers(root / "workers"),
            *dry_run(),
        ]


def dry_run() -> list[Row]:
    """The client's CPU time and memory, in a process of its own as a client is: this one holds a ViT by now."""
    found = in_child(client_of)
    milliseconds, wall, first, last = found.milliseconds, found.wall_milliseconds, found.first_bytes, found.last_bytes
    unit = f"ms of client CPU per scene ({wall:.1f} ms of wall clock)"
    return [
        Row("scale/dry-run-ms-per-scene", milliseconds, unit, milliseconds, COMMAND),
        Row(
            "scale/dry-run-memory", last / 1e6, "MB of the client after 10,000 scenes, lower is better", last / first,
            COMMAND, baseline="after 1,000 scenes, MB", baseline_value=first / 1e6,
        ),
    ]  # fmt: skip


def write_rooms(root: Path, count: int, options: RoomOptions) -> list[ManifestRow]:
    """Synthetic rooms on disk, as manifest rows."""
    found = []
    for seed in range(count):
        room, folder = generate_room(seed, options), root / f"room{seed}"
        write_npy_folder(room.scene, folder)
        write_transforms_json(room.cameras, root / "cameras" / folder.name / "transforms.json")
        cameras = root / "cameras" / folder.name / "transforms.json"
        found.append(
            ManifestRow("rooms", folder.name, "train", "npy", folder, cameras, "", len(room.scene), path_digest(folder))
        )
    return found


def overhead_share(root: Path, views: int = 24) -> Row:
    """Seconds per view of everything but the teacher (reading to publishing, 640x480, cells of 16, 75,000 Gaussians)
    against one pass of a ViT-B/16 with random weights over the same picture (the best of three). Both on all cores, in
    turns.
    """
    room = write_rooms(root, 1, RoomOptions(gaussians=75_000, views=views, width=640, height=480))
    run_stage1(room, root / "warm", CONFIG, RunConfig())  # compiles and calibrates
    model = vit_b()
    around, passes = [], []
    for attempt in range(TURNS):
        store = root / f"store{attempt}"
        (store / "standardisers").parent.mkdir(parents=True)
        os.symlink(root / "warm" / "standardisers", store / "standardisers")
        run_stage1(room, store, CONFIG, RunConfig())
        (outcome,) = read_outcomes(store).values()
        around.append((outcome.seconds["total"] - sum(outcome.seconds[step] for step in TEACHER_STEPS)) / views)
        passes.append(min(seconds(model, clock=time.perf_counter) for _ in range(3)))
    return Rounds(tuple(around), tuple(passes)).row(
        "stage1/overhead-share", "s per view (ratio = of a ViT-B/16 pass), lower is better", COMMAND,
        "ViT-B/16 pass at 640x480 on the same cores, s",
    )  # fmt: skip


def overlap(root: Path, views: int = 24, milliseconds: float = 60) -> Row:
    """A scene with a teacher that takes 60 ms a view on another device (it sleeps): steps overlapped as on a GPU,
    against one after the other. 640x480, cells of 16, 75,000 Gaussians. Overlapped, a scene should take what the slower
    of the two sides takes.
    """
    config = CONFIG.model_copy(update={"batch": 2})
    room = write_rooms(root, 1, RoomOptions(gaussians=75_000, views=views, width=640, height=480))
    run_stage1(room, root / "warm", config, RunConfig())
    seen = np.random.default_rng(0).normal(size=(config.batch, 30, 40, 80)).astype(np.float32)
    turn = itertools.count()

    def sleep(self: ClassicalDenseTeacher, images: NDArray[np.uint8], grid: CellGrid) -> NDArray[np.float32]:
        time.sleep(len(images) * milliseconds / 1e3)
        return seen[: len(images)]

    def publish(overlapped: bool) -> None:
        store = root / f"store{next(turn)}"
        store.mkdir()
        os.symlink(root / "warm" / "standardisers", store / "standardisers")
        with mock.patch.object(scene_task, "teachers_run_elsewhere", return_value=overlapped):
            assert not run_stage1(room, store, config, RunConfig()).failures

    with mock.patch.object(ClassicalDenseTeacher, "features", sleep):
        times = interleaved(
            functools.partial(publish, True), functools.partial(publish, False), rounds=TURNS, clock=time.perf_counter
        )
    asleep = f"{views * milliseconds / 1e3:.2f} s of them the teacher's"
    return times.row("stage1/overlap", f"s per scene, {asleep}", COMMAND, "one step after the other, s")


def vit_b() -> Callable[[], object]:
    """One dense ViT-B/16 pass over a 640x480 picture on all cores."""
    import timm

    model = timm.create_model("vit_base_patch16_224", pretrained=False, img_size=(480, 640), num_classes=0).eval()
    picture = torch.zeros(1, 3, 480, 640)

    def forward() -> object:
        with torch.inference_mode():
            return model.forward_features(picture)

    forward()
    return forward


def two_workers(root: Path, scenes: int = 8, turns: int = TURNS) -> Row:
    """The same rooms by one worker process and by two, each worker with one thread; workers are up before the clock.

    Runs with one and two workers take turns, so that what else the machine does hits both alike. The unit also names
    the speed-up by CPU time (what two workers cost together against one), which a busy machine does not change, and
    that of two processes that share nothing, with half the rooms each: as much as this machine's memory and disk allow.
    """
    config = CONFIG.model_copy(update={"width": 320, "height": 240, "cell": 8, "teachers": ("embedded:dense",)})
    rooms = write_rooms(root, scenes, RoomOptions(gaussians=24_000, views=24))
    run_stage1(rooms[:1], root / "warm", config, RunConfig())
    wall: dict[int, list[float]] = {1: [], 2: []}
    cpu: dict[int, list[float]] = {1: [], 2: []}
    apart: list[float] = []

    def store(name: str) -> Path:
        folder = root / f"store{name}"
        folder.mkdir()
        os.symlink(root / "warm" / "standardisers", folder / "standardisers")
        return folder

    with mock.patch.dict(os.environ, worker_environment(0, 2, "cpu") | {"NUMBA_NUM_THREADS": "1"}):  # one core each
        for turn in range(turns):
            for workers in (1, 2):
                elapsed, worked = timed_run(rooms, store(f"{turn}-{workers}"), config, workers)
                wall[workers].append(elapsed)
                cpu[workers].append(worked)
            apart.append(side_by_side(rooms, [store(f"{turn}-a"), store(f"{turn}-b")], config))
    alone, most = 2 * median(cpu[1]) / median(cpu[2]), median(wall[1]) / median(apart)
    besides = f"{alone:.2f} by CPU time, {most:.2f} by two processes that share nothing"
    return Rounds(tuple(wall[2]), tuple(wall[1])).row(
        "scale/two-workers", f"s, ratio = times faster than one worker ({besides})", COMMAND, "one worker, s",
        times_faster=True,
    )  # fmt: skip


def side_by_side(rooms: list[ManifestRow], stores: list[Path], config: Stage1Config) -> float:
    """Seconds that processes of their own take, a share of the rooms each; they begin at the same moment."""
    context = multiprocessing.get_context("spawn")
    begin, times = context.Barrier(len(stores)), context.Queue()
    processes = []
    for i, store in enumerate(stores):
        plans = plan_teachers(store, describe_teachers(config, "cpu"))
        jobs = [SceneJob(row, store, config, plans) for row in rooms[i :: len(stores)]]
        processes.append(context.Process(target=work_alone, args=(jobs, begin, times)))
    for process in processes:
        process.start()
    longest = max(times.get(timeout=600) for _ in processes)
    for process in processes:
        process.join()
    return float(longest)


def timed_run(rooms: list[ManifestRow], store: Path, config: Stage1Config, workers: int) -> tuple[float, float]:
    """Seconds from the first to the last scene with `workers` single-threaded worker processes, and the CPU seconds
    that client and workers spent in that time.
    """
    plans = plan_teachers(store, describe_teachers(config, "cpu"))
    jobs = [SceneJob(row, store, config, plans) for row in rooms]
    with open_pool(RunConfig(workers=workers)) as pool, OutcomeLog(store) as log:
        list(pool.map(warm_up, range(2 * workers)))
        start, before = time.perf_counter(), cpu_seconds()
        summary = run_jobs(jobs, pool, run_scene, log, Quiet())
        assert summary.counts == {"done": len(jobs)}, summary.failures
        return time.perf_counter() - start, cpu_seconds() - before


def cpu_seconds() -> float:
    """CPU seconds of this process and all below it so far."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(t.user + t.system for t in times)
