"""The jobs of cluster/slurm on a real Slurm: two virtual nodes on this machine (virtual_slurm.py)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.virtual_slurm import CannotStart, VirtualSlurm, virtual_slurm
from tests.stage1.small_rooms import write_rooms

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
STAGE1 = ("--set=width=64", "--set=height=48", "--set=cell=8", "--teachers=embedded:text", "--teachers=embedded:masks")
#: A student of a few thousand weights; its steps are slow enough to be interrupted.
STAGE2 = (
    "--set=projector_hidden=16", "--set=checkpoint_every=3", "--set=batch_size=2",
    "--set=encoder.overrides.enc_channels=[8,16]", "--set=encoder.overrides.enc_depths=[1,1]",
    "--set=encoder.overrides.inputs.grid_size=0.1",
)  # fmt: skip
STEPS = 60


@pytest.fixture(scope="module")
def slurm() -> Iterator[VirtualSlurm]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path: sockets have at most 107 characters
    variables = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"]),
        "PYTHONPATH": str(ROOT),
        "MASTER": "127.0.0.1",  # the nodes' names mean nothing to this machine's resolver
        "PROCESSES": "1",
        "INTERFACE": "lo",
    }
    try:
        with virtual_slurm(folder, variables) as cluster:
            yield cluster
    except CannotStart as reason:
        pytest.skip(str(reason))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rooms(tmp_path_factory.mktemp("rooms"), 4, n_views=3)


def submit(slurm: VirtualSlurm, folder: Path, script: str, options: list[str], words: list[object]) -> str:
    """Number of a new job; its log is folder/log."""
    command = ["sbatch", "--parsable", f"--chdir={folder}", f"--output={folder}/log", *options]
    return slurm.run(*command, str(ROOT / "cluster" / "slurm" / script), *map(str, words)).strip()


@pytest.fixture(scope="module")
def store(slurm: VirtualSlurm, rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rooms' cache, made by an array job of three tasks."""
    folder = tmp_path_factory.mktemp("stage1")
    words = ["--manifest", rooms, "--store", folder / "store", *STAGE1]
    job = submit(slurm, folder, "stage1-array.sbatch", ["--array=1-3", "--cpus-per-task=1"], words)
    assert slurm.wait(job) == "COMPLETED", (folder / "log").read_text()
    return folder / "store"


def test_an_array_job_makes_the_same_cache_as_one_process(rooms: Path, store: Path, tmp_path: Path) -> None:
    words = ["run", "--manifest", rooms, "--store", tmp_path / "store", *STAGE1]
    subprocess.run([sys.executable, "-m", "stage1_render_teachers.cli", *map(str, words)], cwd=ROOT, check=True)
    alone = tmp_path / "store" / "tiny"
    files = sorted(p.relative_to(alone) for p in alone.rglob("*") if p.is_file() and p.name != "zarr.json")
    assert len(files) > 20
    for file in files:
        assert (store / "tiny" / file).read_bytes() == (alone / file).read_bytes(), file


def logged_steps(run: Path) -> int:
    log = run / "log.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_a_node_dies_in_training_and_the_student_is_the_same(
    slurm: VirtualSlurm, rooms: Path, store: Path, tmp_path: Path
) -> None:
    epochs = f"--set=epochs={STEPS // 2}"
    words = ["train", "--store", store, "--manifest", rooms, *STAGE2, epochs, "--out"]
    options = ["--nodes=2", "--cpus-per-task=1"]
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    for folder in (calm, stormy):
        folder.mkdir()
    job = submit(slurm, calm, "stage2.sbatch", options, [*words, calm / "run"])
    assert slurm.wait(job) == "COMPLETED", (calm / "log").read_text()

    job = submit(slurm, stormy, "stage2.sbatch", options, [*words, stormy / "run"])
    deadline = time.monotonic() + 120
    while logged_steps(stormy / "run") < 10:
        assert time.monotonic() < deadline, (stormy / "log").read_text()
        time.sleep(0.05)
    assert slurm.processes_on("n2"), "there is nothing to kill"
    slurm.kill_node("n2")
    assert logged_steps(stormy / "run") < STEPS, "the run was over before the node died"
    slurm.start_node("n2")
    assert slurm.wait(job) == "COMPLETED", (stormy / "log").read_text()
    assert "start 2" in (stormy / "log").read_text()
    for name in ("model.safetensors", "config.json"):
        assert (stormy / "run" / name).read_bytes() == (calm / "run" / name).read_bytes(), name


def test_a_job_whose_time_is_nearly_up_is_queued_again(
    slurm: VirtualSlurm, rooms: Path, store: Path, tmp_path: Path
) -> None:
    words = ["train", "--store", store, "--manifest", rooms, *STAGE2, "--set=epochs=20", "--out", tmp_path / "run"]
    # Slurm looks at limits once a minute; the signal that it would send is sent here.
    job = submit(slurm, tmp_path, "stage2.sbatch", ["--nodes=1", "--cpus-per-task=1"], words)
    deadline = time.monotonic() + 120
    while logged_steps(tmp_path / "run") < 5:
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.05)
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    assert slurm.wait(job) == "COMPLETED", (tmp_path / "log").read_text()
    log = (tmp_path / "log").read_text()
    assert "the job is queued again" in log
    assert "start 2" in log


def test_the_pipeline_from_scenes_to_the_table(slurm: VirtualSlurm, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["synth", "--out", tmp_path / "rooms", "--rooms", 3, "--val", 1, "--gaussians", 4000, "--views", 4]
    subprocess.run([sys.executable, "-m", "data_manifests.cli", *map(str, words)], cwd=ROOT, check=True)
    rooms = tmp_path / "rooms" / "manifest.parquet"
    matrix = tmp_path / "matrix.toml"
    matrix.write_text(
        f'[encoders]\nstudent = "{out}/student"\n'
        f'[datasets.rooms]\nmanifest = "{rooms}"\nstores = ["{tmp_path}/store"]\n'
        '[tasks.zero-shot]\ncommand = "zero-shot"\n[tasks.probe]\ncommand = "probe"\n'
    )
    said = slurm.run(
        "make", "-C", str(ROOT), "--no-print-directory", "-o", ".venv/.ready", "pipeline-slurm",
        f"MANIFEST={rooms}", f"STORE={tmp_path}/store", f"MATRIX={matrix}", f"OUT={out}", "SHARDS=2", "TASKS=2", "MEM=",
        f"SBATCH=--chdir={tmp_path} --cpus-per-task=1",
        STAGE1=" ".join(STAGE1), STAGE2=" ".join([*STAGE2, "--set=epochs=4"]),
    )  # fmt: skip
    jobs = dict(line.split(": job ") for line in said.splitlines() if ": job " in line)
    assert list(jobs) == ["calibrate", "stage1", "stage1-complete", "stage2", "evaluate"]
    ended = slurm.wait(jobs["evaluate"])
    logs = [*sorted((out / "jobs").glob("*.log")), *sorted((out / "evaluation" / "cells").glob("*.log"))]
    assert ended == "COMPLETED", "\n".join(f"== {log.name}\n{log.read_text()}" for log in logs)
    table = (out / "evaluation" / "results.md").read_text()
    assert "## zero-shot on rooms" in table
    assert "## probe on rooms" in table
    status = slurm.run("sh", str(ROOT / "cluster" / "slurm" / "status.sh"), str(out))
    assert "3 done, 0 failed, 0 pending of 3 scenes" in status
    assert "a student is saved" in status
    assert "2 cells done, table in" in status
    assert status.count("COMPLETED") == 5


def test_too_few_scenes_end_the_pipeline(slurm: VirtualSlurm, rooms: Path, tmp_path: Path) -> None:
    """What waits for a cache that is not good enough is cancelled, not run."""
    out = tmp_path / "out"
    (tmp_path / "matrix.toml").write_text("")
    said = slurm.run(
        "sh", str(ROOT / "cluster" / "slurm" / "pipeline.sh"),
        MANIFEST=str(rooms), STORE=f"{tmp_path}/store", MATRIX=f"{tmp_path}/matrix.toml", OUT=str(out), SHARDS="1",
        SBATCH=f"--chdir={tmp_path} --cpus-per-task=1", STAGE1=" ".join([*STAGE1, "--set=max_pairs_per_view=1"]),
    )  # fmt: skip
    jobs = dict(line.split(": job ") for line in said.splitlines())
    assert slurm.wait(jobs["stage1-complete"]) in ("FAILED", "CANCELLED")
    assert slurm.wait(jobs["stage2"]) == "CANCELLED"
    assert not (out / "student").exists()
