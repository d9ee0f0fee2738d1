"""What the engine promises, asked of every recipe: resumed runs end with the same bytes, non-finite steps are skipped,
mixed precision, Weights & Biases, several processes, interruption.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chorus_common.runtime.errors import ChorusError, ConfigError
from stage2_distill.engine.checkpointing import load_weights
from stage2_distill.engine.distributed import Processes
from stage2_distill.engine.recipe import Loss, Recipe
from stage2_distill.engine.trainer import Trainer
from tests.stage2.engine.toy_recipes import RECIPES, SHARED, run

ROOT = Path(__file__).resolve().parents[3]
STEPS = 6


@pytest.fixture(params=RECIPES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a whole run of a recipe, made once."""
    folders: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            assert run(name, folders[name]).steps == STEPS
        return folders[name] / "run"

    return of


def records(folder: Path, kind: str = "step") -> list[dict[str, Any]]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == kind]


def at_step(number: int, act: Callable[[Loss], Loss]) -> Callable[[Recipe[Any]], None]:
    """Do something to the loss of one step; log every step."""

    def change(recipe: Recipe[Any]) -> None:
        loss, recipe.log_every = recipe.loss, 1

        def patched(batch: Any, step: int) -> Loss:
            found = loss(batch, step)
            return act(found) if step == number else found

        recipe.loss = patched  # type: ignore[method-assign]

    return change


def poisoned(found: Loss) -> Loss:
    assert found.total is not None
    return replace(found, total=found.total * math.nan)


def killed(found: Loss) -> Loss:
    raise RuntimeError("killed")


def interrupted(found: Loss) -> Loss:
    signal.raise_signal(signal.SIGTERM)
    return found


def test_a_killed_run_ends_with_the_same_bytes(name: str, tmp_path: Path, undisturbed: Callable[[str], Path]) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        run(name, tmp_path, change=at_step(3, killed))
    assert [r["step"] for r in records(tmp_path / "run")] == [0, 1, 2]
    assert run(name, tmp_path, "checkpoint_every=50").steps == STEPS  # what changes no number may change
    for file in ("state.safetensors", "model.safetensors"):
        whole = undisturbed(name) / file
        assert whole.exists() == (tmp_path / "run" / file).exists()
        if whole.exists():
            assert (tmp_path / "run" / file).read_bytes() == whole.read_bytes()


def test_an_interrupted_run_saves_its_last_step(name: str, tmp_path: Path, undisturbed: Callable[[str], Path]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(name, tmp_path, "checkpoint_every=50", change=at_step(2, interrupted))
    assert [r["step"] for r in records(tmp_path / "run")] == [0, 1, 2]
    seen: list[int] = []

    def watch(recipe: Recipe[Any]) -> None:
        batch = recipe.batch

        def patched(step: int, first: int, last: int) -> Any:
            seen.append(step)
            return batch(step, first, last)

        recipe.batch = patched  # type: ignore[method-assign]

    run(name, tmp_path, "checkpoint_every=50", change=watch)
    assert sorted(set(seen)) == [3, 4, 5]
    whole = undisturbed(name) / "state.safetensors"
    assert (tmp_path / "run" / "state.safetensors").read_bytes() == whole.read_bytes()


def test_a_step_that_is_not_finite_is_skipped_and_counted(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(name, tmp_path, "max_bad_steps=2", change=at_step(1, poisoned))
    assert (result.steps, result.skipped) == (STEPS, 1)
    assert "warning: step 1: loss or gradient is not finite, step skipped (scenes" in capsys.readouterr().err
    assert all(torch.isfinite(v).all() for v in load_weights(tmp_path / "run" / "state.safetensors").values())
    losses = [r["loss"] for r in records(tmp_path / "run")]
    assert [math.isnan(loss) for loss in losses] == [step == 1 for step in range(STEPS)]
    with pytest.raises(ChorusError, match=r" gave up: 1 steps in a row were not finite, the last \(step 0\) on scenes"):
        run(name, tmp_path / "again", "max_bad_steps=1", change=at_step(0, poisoned))


def test_mixed_precision_is_close_to_single(name: str, tmp_path: Path, undisturbed: Callable[[str], Path]) -> None:
    run(name, tmp_path, "amp=bf16", change=at_step(-1, killed))
    single, mixed = records(undisturbed(name))[0], records(tmp_path / "run")[0]
    assert mixed["loss"] == pytest.approx(single["loss"], rel=0.05)
    assert mixed["grad_norm"] != single["grad_norm"]
    assert all(torch.isfinite(v).all() for v in load_weights(tmp_path / "run" / "state.safetensors").values())


def test_weights_and_biases_gets_every_record(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"wandb is set, but the package is not installed; pip install"):
        run(name, tmp_path, "wandb=chorus")
    logged: list[dict[str, float]] = []
    ended: list[bool] = []
    board = SimpleNamespace(log=logged.append, finish=lambda: ended.append(True), define_metric=lambda *a, **k: None)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **given: board))
    run(name, tmp_path, "wandb=chorus", change=at_step(-1, killed))
    assert ended == [True]
    assert [line["step"] for line in logged if "step/loss" in line] == list(range(STEPS))
    assert logged[0]["step/loss"] == records(tmp_path / "run")[0]["loss"]


def test_another_run_in_the_folder_is_refused(name: str, tmp_path: Path, undisturbed: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match=r"holds a run with other settings \(.*seed: 0, now 1\)"):
        run(name, undisturbed(name).parent, "seed=1")


def run_pair(name: str, out: Path, *settings: str) -> None:
    """Two processes, as torchrun starts them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = os.environ | {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": "0", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.stage2.engine.toy_recipes", name]
    pair = []
    for rank, folder in enumerate((out, out / "second")):
        env = common | {"RANK": str(rank)}
        words = [*command, str(folder), *settings]
        pair.append(subprocess.Popen(words, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True))
    for process in pair:
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said


def test_two_processes_learn_the_same_as_one(name: str, tmp_path: Path) -> None:
    run(name, tmp_path / "one", *SHARED[name])
    run_pair(name, tmp_path / "two", *SHARED[name])
    one, two = (load_weights(tmp_path / n / "run" / "state.safetensors") for n in ("one", "two"))
    assert one.keys() == two.keys()
    for key, value in one.items():
        if name == "finetune" and key.endswith((".bias", "running_mean")):
            continue  # shifts that the BatchNorm before the heads takes out again: their gradient is rounding alone
        torch.testing.assert_close(two[key], value, atol=1e-5, rtol=1e-4, msg=lambda text, k=key: f"{k}: {text}")
    assert not (tmp_path / "two" / "second" / "run").exists()  # only the first process writes


def test_processes_that_cannot_share_a_batch_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"batch_size \d is not divisible by 5 processes"):
        Trainer(RECIPES[name](tmp_path, ()), Processes(0, 5))
