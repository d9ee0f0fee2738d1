"""Two processes that share out the encoder learn what two without sharing learn, and what one does; a run goes from one
to the other; each holds half.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

from chorus_common.runtime.errors import ConfigError
from stage2_distill.distill import DistillRecipe, train
from stage2_distill.engine.checkpointing import load_weights
from stage2_distill.engine.distributed import Processes, process_group
from stage2_distill.engine.loop import Run
from stage2_distill.engine.sharding import clip_gradients, gathered, local, shard
from stage2_distill.engine.trainer import Trainer
from stage2_distill.student import load_student
from tests.stage2.engine.shares import held_bytes, whole_bytes
from tests.stage2.engine.toy_recipes import RECIPES, SHARED
from tests.stage2.engine.toy_recipes import run as run_recipe
from tests.stage2.test_adapt import adapt_config
from tests.stage2.train_child import run_tiny, tiny_config, tiny_data

CPU = torch.device("cpu")
FULL = "sharding=full"
SAME = ("optim.lr=2e-4",)
#: What sharding is to change nothing of: settings, and scenes that nothing is learnt from.
VARIANTS: dict[str, tuple[tuple[str, ...], int]] = {
    "plain": (SAME, 0),
    "batch-norm": (("epochs=1", "encoder.overrides.norm=batch", *SAME), 0),
    "nothing-to-learn": (("epochs=3", "teachers.text.start=2", "teachers.dense.start=0", *SAME), 2),
    # of two steps, one has nothing of "dense" in either process, one something in one of them
    "heads-without-scenes": (("epochs=2", "optim.weight_decay=0.5", *SAME), 3),
    "accumulated": (("batch_size=4", "micro_batch=1", "optim.clip=0.1", *SAME), 0),
    "mixed-precision": (("epochs=2", "amp=bf16", "encoder.overrides.checkpoint_blocks=true", *SAME), 0),
    "groups": (
        ("epochs=2", "encoder.overrides.norm=batch", "sync_batch_norm=false", "optim.cycle_beta1=[0.85, 0.95]",
         "optim.layer_decay=0.8", "optim.block_lr_scale=0.1", "optim.ema=0", *SAME), 0,
    ),
}  # fmt: skip


def stop_after(run: Run[Any], last: int) -> None:
    """Train up to step `last`, and leave the folder as a killed process leaves it."""
    after = run._after_step

    def patched(step: int, *rest: Any) -> None:
        after(step, *rest)
        if step == last:
            raise RuntimeError("killed")

    run._after_step = patched  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="killed"):
        run.train()


def _process(rank: int, folder: Path, port: int) -> None:
    os.environ |= {
        "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    with process_group(CPU) as processes:
        for name, (settings, text_only) in VARIANTS.items():
            for sharding in ("none", "full"):
                run_tiny(folder / f"{name}-{sharding}", *settings, f"sharding={sharding}", text_only=text_only)
        for sharding in ("none", "full"):
            config = adapt_config(folder / "plain-none", "epochs=2", "lora.rank=2", f"sharding={sharding}", *SAME)
            train(config, tiny_data(), folder / f"adaptation-{sharding}", CPU)
        gaussiancross = SHARED["gaussiancross"]
        for sharding in ("none", "full"):
            run_recipe("gaussiancross", folder / f"gaussiancross-{sharding}", *gaussiancross, f"sharding={sharding}")
        # shared out up to step 4, of which step 3 is saved; then by two that do not share, or by one (in the test)
        out = folder / "moved"
        stop_after(Run(DistillRecipe(tiny_config(*SAME, FULL), tiny_data(), CPU), out, processes), 4)
        if processes.main:
            shutil.copytree(out, folder / "alone")
        torch.distributed.barrier()
        run_tiny(out, *SAME)
        # begun without sharing, shared out from step 3 on
        back = folder / "back"
        stop_after(Run(DistillRecipe(tiny_config(*SAME), tiny_data(), CPU), back, processes), 4)
        run_tiny(back, *SAME, FULL)
        held = {}
        for sharding in ("none", "full"):
            trainer = Trainer(DistillRecipe(tiny_config(f"sharding={sharding}"), tiny_data(), CPU), processes)
            held[sharding] = held_bytes(trainer) | {"all": whole_bytes(trainer.model)}
        (folder / f"bytes{rank}.json").write_text(json.dumps(held))
        torch.save(_clipped(rank), folder / f"clipped{rank}.pt")


def _clipped(rank: int) -> dict[str, Tensor]:
    """Norm and scaled gradients of a network of which one layer is shared out, and one has no row for the second
    process.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 1), nn.Linear(1, 2))
    shard([model[0], model[1]], CPU)
    model(torch.ones(2, 3)).square().sum().backward()
    assert local(model[1].weight).numel() == (5 if rank == 0 else 0)
    norm = clip_gradients(model.parameters(), 0.5)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"norm": norm, **gathered(gradients, keep=True)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes, all in one group."""
    out = tmp_path_factory.mktemp("pair")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    mp.spawn(_process, (out, port), nprocs=2)
    return out


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=atol, rtol=1e-5, msg=lambda text, k=key: f"{k}: {text}")


@pytest.mark.parametrize("name", [*VARIANTS, "adaptation"])
def test_sharing_out_changes_nothing(folder: Path, name: str) -> None:
    """Weights, and averaged weights, against two processes that hold everything."""
    none, full = (load_weights(folder / f"{name}-{s}" / "state.safetensors") for s in ("none", "full"))
    assert_close(full, none, 1e-6)
    assert_close(*(load_student(folder / f"{name}-{s}").state_dict() for s in ("full", "none")), atol=1e-6)


def test_the_log_has_the_norm_of_all_gradients(folder: Path) -> None:
    norms = []
    for sharding in ("none", "full"):
        lines = (folder / f"plain-{sharding}" / "log.jsonl").read_text().splitlines()
        norms.append([r["grad_norm"] for r in map(json.loads, lines) if r["kind"] == "step"])
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)


def test_gaussiancross_shares_its_encoder(folder: Path) -> None:
    none, full = (load_weights(folder / f"gaussiancross-{s}" / "run" / "state.safetensors") for s in ("none", "full"))
    assert_close(full, none, 1e-6)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    out = tmp_path_factory.mktemp("one")
    run_tiny(out, *SAME)
    return out


def test_two_that_share_equal_one(folder: Path, alone: Path) -> None:
    state, shared = (load_student(f).state_dict() for f in (alone, folder / "plain-full"))
    assert_close(shared, state, 1e-5)


@pytest.mark.parametrize("name", ["moved", "back", "alone"])
def test_a_run_goes_on_with_more_or_fewer_shares(folder: Path, alone: Path, name: str) -> None:
    if name == "alone":
        run_tiny(folder / name, *SAME)
    assert_close(load_student(folder / name).state_dict(), load_student(alone).state_dict(), 1e-5)


def test_each_process_holds_half(folder: Path) -> None:
    """Of weights, gradients, two moments and the average."""
    for rank in range(2):
        held = json.loads((folder / f"bytes{rank}.json").read_text())
        none, full = held["none"], held["full"]
        assert full["all"] == none["all"] == none["weights"]
        for part, times in (("weights", 1), ("gradients", 1), ("moments", 2), ("average", 1)):
            assert none[part] == pytest.approx(times * none["all"], rel=0.03), part  # a counter for each
            assert full[part] == pytest.approx(times * none["all"] / 2, rel=0.06), part


def test_clipped_gradients_are_torchs(folder: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 1), nn.Linear(1, 2))
    model(torch.ones(2, 3)).square().sum().backward()
    expected = {"norm": torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)}
    expected |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for rank in range(2):
        assert_close(torch.load(folder / f"clipped{rank}.pt"), expected, 1e-6)


def test_one_process_has_nothing_to_share(tmp_path: Path, alone: Path) -> None:
    run_tiny(tmp_path, *SAME, FULL)
    assert (tmp_path / "state.safetensors").read_bytes() == (alone / "state.safetensors").read_bytes()


@pytest.mark.parametrize(("name", "what"), [("field", "field training"), ("finetune", "fine-tuning")])
def test_recipes_without_units_refuse(tmp_path: Path, name: str, what: str) -> None:
    recipe: Callable[..., Any] = RECIPES[name]
    with pytest.raises(ConfigError, match=f'sharding = "full" is not offered for {what}; leave it out'):
        Trainer(recipe(tmp_path, (FULL,)), Processes(0, 1))
