"""Stage 1: what everything around the teachers costs, how two workers scale, what a scene costs the client."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from pathlib import Path

import torch

from chorus_common.camera_io import write_transforms_json
from chorus_common.manifest import ManifestRow, path_digest
from chorus_common.scene_io import write_npy_folder
from chorus_common.synthetic import RoomOptions, generate_room
from stage1_render_teachers.cluster import open_pool
from stage1_render_teachers.outcomes import OutcomeLog, read_outcomes
from stage1_render_teachers.plan import plan_teachers
from stage1_render_teachers.run import run_jobs, run_stage1
from stage1_render_teachers.scene_task import SceneJob, run_scene
from stage1_render_teachers.settings import CalibrationConfig, RunConfig, Stage1Config
from tests.bench.row import Row
from tests.bench.stage1_jobs import Quiet, instant, warm_up

COMMAND = "python -m tests.bench stage1"
CONFIG = Stage1Config(teachers=("embedded:dense",), calibration=CalibrationConfig(scenes=1, views=2))
#: Steps of a scene that a run without teachers would not have.
TEACHER_STEPS = ("embedded-dense",)


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        return [overhead_share(root / "overhead"), two_workers(root / "workers"), dry_run(root / "dry")]


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
    against one pass of a ViT-B/16 with random weights over the same picture. Both on all cores, the best of two runs
    and of three passes.
    """
    room = write_rooms(root, 1, RoomOptions(gaussians=75_000, views=views, width=640, height=480))
    run_stage1(room, root / "warm", CONFIG, RunConfig())  # compiles and calibrates
    around = []
    for attempt in range(2):
        store = root / f"store{attempt}"
        (store / "bases").parent.mkdir(parents=True)
        os.symlink(root / "warm" / "bases", store / "bases")
        run_stage1(room, store, CONFIG, RunConfig())
        (outcome,) = read_outcomes(store).values()
        around.append((outcome.seconds["total"] - sum(outcome.seconds[step] for step in TEACHER_STEPS)) / views)
    share = min(around) / (teacher := vit_b_seconds())
    return Row(
        "stage1/overhead-share", share, "of a ViT-B/16 pass per view, lower is better", share, COMMAND,
        baseline="ViT-B/16 pass at 640x480 on the same cores, s", baseline_value=teacher,
    )  # fmt: skip


def vit_b_seconds() -> float:
    """Seconds of one dense ViT-B/16 pass over a 640x480 picture on all cores."""
    import timm

    model = timm.create_model("vit_base_patch16_224", pretrained=False, img_size=(480, 640), num_classes=0).eval()
    picture = torch.zeros(1, 3, 480, 640)
    seconds = []
    with torch.inference_mode():
        for _ in range(4):
            start = time.perf_counter()
            model.forward_features(picture)
            seconds.append(time.perf_counter() - start)
    return min(seconds)


def two_workers(root: Path, scenes: int = 8) -> Row:
    """The same rooms by one worker process and by two, each worker with one thread; workers are up before the clock."""
    config = CONFIG.model_copy(update={"width": 320, "height": 240, "cell": 8, "teachers": ("embedded:dense",)})
    rooms = write_rooms(root, scenes, RoomOptions(gaussians=24_000, views=24))
    run_stage1(rooms[:1], root / "warm", config, RunConfig())
    seconds: dict[int, float] = {}
    threads = os.environ.get("NUMBA_NUM_THREADS")
    os.environ["NUMBA_NUM_THREADS"] = "1"  # inherited by the workers: one core each, whatever their number
    for workers in (1, 2, 1, 2):
        store = root / f"store{workers}-{len(seconds)}-{time.monotonic_ns()}"
        store.mkdir()
        os.symlink(root / "warm" / "bases", store / "bases")
        seconds[workers] = min(seconds.get(workers, float("inf")), timed_run(rooms, store, config, workers))
    if threads is None:
        del os.environ["NUMBA_NUM_THREADS"]
    else:
        os.environ["NUMBA_NUM_THREADS"] = threads
    ratio = seconds[1] / seconds[2]
    return Row(
        "scale/two-workers", seconds[2], "s, ratio = times faster than one worker", ratio, COMMAND,
        baseline="one worker, s", baseline_value=seconds[1],
    )  # fmt: skip


def timed_run(rooms: list[ManifestRow], store: Path, config: Stage1Config, workers: int) -> float:
    """Seconds from the first to the last scene with `workers` single-threaded worker processes."""
    plans = plan_teachers(store, config, "cpu")
    jobs = [SceneJob(row, store, config, plans) for row in rooms]
    with open_pool(RunConfig(workers=workers)) as pool, OutcomeLog(store) as log:
        list(pool.map(warm_up, range(2 * workers)))
        start = time.perf_counter()
        summary = run_jobs(jobs, pool, run_scene, log, Quiet())
        assert summary.counts == {"done": len(jobs)}, summary.failures
        return time.perf_counter() - start


def dry_run(root: Path, scenes: int = 10_000) -> Row:
    """10,000 scenes of which nothing is asked, through the real engine with two workers: CPU milliseconds of the client
    (which hosts the scheduler) per scene, outcomes written. Memory must not grow with the number of scenes.
    """
    row = ManifestRow("dry", "s", "train", "npy", root, None, "", 1, "0" * 64)
    jobs = (SceneJob(row, root, CONFIG, ()) for _ in range(scenes))
    with open_pool(RunConfig(workers=2)) as pool, OutcomeLog(root) as log:
        run_jobs((SceneJob(row, root, CONFIG, ()) for _ in range(500)), pool, instant, log, Quiet())
        memory, start, wall = peak_memory(), time.process_time(), time.perf_counter()
        summary = run_jobs(jobs, pool, instant, log, Quiet())
        cpu, wall = time.process_time() - start, time.perf_counter() - wall
        grown = peak_memory() - memory
    assert summary.counts == {"done": scenes}
    milliseconds = 1e3 * cpu / scenes
    unit = f"ms of client CPU per scene ({1e3 * wall / scenes:.1f} ms of wall clock, {grown / 1e6:.0f} MB grown)"
    return Row("scale/dry-run-ms-per-scene", milliseconds, unit, milliseconds, COMMAND)


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
