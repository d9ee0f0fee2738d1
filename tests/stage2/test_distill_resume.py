"""Killed and resumed runs end with the same bytes as undisturbed ones; processes share one run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from stage2_distill.student import load_student
from tests.stage2.train_child import run_tiny

ROOT = Path(__file__).resolve().parents[2]


def start(out: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])} | environment
    command = [sys.executable, "-m", "tests.stage2.train_child", str(out), *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=900)
    return process.returncode, err


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    run_tiny(out)
    return out


def assert_same_end(out: Path, undisturbed: Path) -> None:
    for name in ("state.safetensors", "model.safetensors", "config.json", "train.json"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name
    steps = [r["step"] for r in map(json.loads, (out / "log.jsonl").read_text().splitlines()) if r["kind"] == "step"]
    assert steps == list(range(8))
    losses = [
        [r["loss"] for r in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if r["kind"] == "step"]
        for folder in (out, undisturbed)
    ]
    assert losses[0] == losses[1]


def test_killed_at_any_step_ends_the_same(tmp_path: Path, undisturbed: Path) -> None:
    # while the first checkpoint is being written, and between the second one and the end
    for argument in ("--kill-in-save=2", "--kill-at=6"):
        code, err = finish(start(tmp_path, argument))
        assert code == -signal.SIGKILL, err
    run_tiny(tmp_path)
    assert_same_end(tmp_path, undisturbed)


def test_interrupt_saves_and_says_how_to_go_on(tmp_path: Path, undisturbed: Path) -> None:
    process = start(tmp_path, "epochs=400")
    log = tmp_path / "log.jsonl"
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") > 1):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, err = finish(process)
    assert code == 130, err
    assert "run the same command again to go on" in err
    assert (tmp_path / "state.safetensors").exists()
    assert load_student(tmp_path).teachers == ("dense", "text")


def run_pair(out: Path, *arguments: str) -> list[tuple[int, str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": "0"}
    pair = [start(out, *arguments, **common, RANK=str(rank)) for rank in range(2)]
    return [finish(p) for p in pair]


#: What a BatchNorm further on takes out of its input again: shifts whose gradient is nothing but rounding, which Adam
#: turns into steps of full length; and the running means that follow them.
SHIFTS = ("stem.linear.bias", "enc0.block0.conv.2.bias", "down.proj.bias", "up.proj.0.bias", "up.proj_skip.0.bias")


@pytest.mark.parametrize(("norm", "text_only"), [("batch", 0), ("batch", 2)])
def test_two_processes_learn_the_same_as_one(tmp_path: Path, norm: str, text_only: int) -> None:
    """Two processes with a scene each, against one with both in one forward pass, in eight steps of 2e-4, with drop
    path, shuffled curves and BatchNorm over both; and with scenes that nothing is learnt from before the third epoch.
    """
    same = [f"encoder.overrides.norm={norm}", "optim.lr=2e-4"]
    if text_only:
        same += ["teachers.text.start=2", "teachers.dense.start=0"]
    run_tiny(tmp_path / "one", *same, text_only=text_only)
    for code, err in run_pair(tmp_path / "two", *same, f"--text-only={text_only}"):
        assert code == 0, err
    one, two = load_student(tmp_path / "one").state_dict(), load_student(tmp_path / "two").state_dict()
    assert any("running_mean" in name for name in one) == (norm == "batch")
    free = (*SHIFTS, "running_mean") if norm == "batch" else ()
    for name, value in one.items():
        if not name.endswith(free):
            torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_two_killed_processes_end_the_same(tmp_path: Path) -> None:
    assert [code for code, _ in run_pair(tmp_path / "whole")] == [0, 0]
    codes = [code for code, _ in run_pair(tmp_path / "killed", "--kill-at=4")]
    assert -signal.SIGKILL in codes
    assert 0 not in codes
    assert [code for code, _ in run_pair(tmp_path / "killed")] == [0, 0]
    for name in ("state.safetensors", "model.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
