"""The training loop: it learns, skips what is not finite, survives full disks, refuses foreign folders."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chorus_common.runtime.errors import ChorusError, ConfigError, WeightsError
from stage2_distill import distill as distill_module
from stage2_distill.distill import DistillRecipe, train
from stage2_distill.engine import checkpointing
from stage2_distill.engine.distributed import Processes
from stage2_distill.engine.loop import Run
from stage2_distill.engine.run_folder import first_difference
from stage2_distill.losses.schedule import TermWeights
from stage2_distill.losses.total import TotalTerms
from stage2_distill.settings import TrainConfig
from stage2_distill.start import TrainData
from stage2_distill.student import load_student
from stage2_distill.validation import validate
from tests.stage2.train_child import run_tiny, tiny_config, tiny_data, tiny_run

CPU = torch.device("cpu")


def records(out: Path, kind: str = "step") -> list[dict[str, Any]]:
    lines = (out / "log.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == kind]


def make_run(out: Path, *settings: str) -> tuple[Run[Any], DistillRecipe]:
    run = tiny_run(out, tiny_config(*settings), tiny_data())
    assert isinstance(run.recipe, DistillRecipe)
    return run, run.recipe


def stop_after(config: TrainConfig, data: TrainData, out: Path, step: int) -> None:
    """Train, and be gone right after `step`, whether or not that was saved."""
    run = tiny_run(out, config, data)
    after = run._after_step

    def watch(done: int, *rest: Any) -> None:
        after(done, *rest)
        if done == step:
            raise KeyboardInterrupt

    run._after_step = watch  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.train()


def test_a_tiny_cache_is_overfitted(tmp_path: Path) -> None:
    settings = (
        "epochs=60",
        "augment.enabled=false",
        "encoder.overrides.drop_path=0.0",
        "data.max_points=0",
        "optim.lr=0.01",
    )
    run_tiny(tmp_path, *settings, "encoder.overrides.inputs.grid_size=0.02", "checkpoint_every=1000")
    losses = [r["loss"] for r in records(tmp_path)]
    assert len(losses) == 120
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) / 5
    cosines = records(tmp_path, "validation")[-1]["teachers"]
    assert min(t["cosine"] for t in cosines.values()) > 0.8


def test_prototypes_are_learnt_and_do_not_depend_on_how_data_is_read(tmp_path: Path) -> None:
    name = next(iter(tiny_data().standardisers))
    settings = (
        f"teachers.{name}.prototypes.weight=2.0",
        f"teachers.{name}.prototypes.count=8",
        "epochs=30",
        "augment.enabled=false",
        "encoder.overrides.drop_path=0.0",
    )
    run_tiny(tmp_path / "a", *settings, "data.workers=0")
    values = [r["teachers"][name]["prototypes"] for r in records(tmp_path / "a")]
    assert np.mean(values[-4:]) < np.mean(values[:4]) / 2
    run_tiny(tmp_path / "b", *settings, "data.workers=2", "data.memory_mb=0")
    assert (tmp_path / "a" / "state.safetensors").read_bytes() == (tmp_path / "b" / "state.safetensors").read_bytes()


def test_workers_and_memory_change_no_bit(tmp_path: Path) -> None:
    for name, *settings in (
        ("a", "data.workers=0"),
        ("b", "data.workers=3", "data.prefetch=5"),
        ("c", "data.memory_mb=0"),
    ):
        run_tiny(tmp_path / name, *settings)
    one = (tmp_path / "a" / "state.safetensors").read_bytes()
    assert (tmp_path / "b" / "state.safetensors").read_bytes() == one
    assert (tmp_path / "c" / "state.safetensors").read_bytes() == one
    run_tiny(tmp_path / "d", "seed=1")
    assert (tmp_path / "d" / "state.safetensors").read_bytes() != one


def test_saved_student_holds_the_averaged_weights(tmp_path: Path) -> None:
    run, recipe = make_run(tmp_path, "epochs=2")
    run.train()
    student, ema = load_student(tmp_path), run.trainer.ema
    assert ema is not None
    for name, value in student.state_dict().items():
        assert torch.equal(value, ema.tensors[name])
    assert not all(torch.equal(v, ema.tensors[n]) for n, v in recipe.model.state_dict().items())
    found = validate(student, recipe.dataset, recipe.teachers, CPU)
    assert all(np.isfinite(list(v.values())).all() for v in found.values())
    assert (tmp_path / "best" / "model.safetensors").exists()


def test_without_average_the_weights_themselves_are_saved(tmp_path: Path) -> None:
    run, recipe = make_run(tmp_path, "epochs=1", "optim.ema=0")
    run.train()
    for name, value in load_student(tmp_path).state_dict().items():
        assert torch.equal(value, recipe.model.state_dict()[name])


def test_accumulated_loss_is_the_mean_over_scenes(tmp_path: Path) -> None:
    settings = ("epochs=1", "encoder.overrides.drop_path=0.0", "encoder.overrides.shuffle_orders=false")
    run_tiny(tmp_path / "micro", "micro_batch=1", *settings)
    _, recipe = make_run(tmp_path / "plain", *settings)
    singles = [recipe.batch(0, i, i + 1) for i in range(2)]
    recipe.model.train()
    weights = dict.fromkeys(recipe.teachers, TermWeights(1.0))
    losses = [distill_module.total_loss(recipe.model, b, recipe.teachers, weights, {}).total for b in singles]
    expected = np.mean([loss.item() for loss in losses if loss is not None])
    assert records(tmp_path / "micro")[0]["loss"] == pytest.approx(expected, rel=1e-6)


def test_a_teacher_joins_later(tmp_path: Path) -> None:
    run, recipe = make_run(tmp_path, "teachers.text.weight=2", "teachers.dense.start=2", "teachers.dense.warmup=1")
    untouched = {k: v.clone() for k, v in recipe.model.projectors["dense"].state_dict().items()}
    steps = recipe.steps_per_epoch
    seen: list[bool] = []
    after = run._after_step

    def watch(step: int, *rest: Any) -> None:
        after(step, *rest)
        now = recipe.model.projectors["dense"].state_dict()
        seen.append(all(torch.equal(now[k], v) for k, v in untouched.items()))

    run._after_step = watch  # type: ignore[method-assign]
    run.train()
    # at epoch 2 its weight is still 0; half-way through it has begun
    assert seen == [True] * (2 * steps + 1) + [False] * (len(seen) - 2 * steps - 1)
    assert "dense" not in records(tmp_path)[0]["teachers"]
    assert records(tmp_path)[2 * steps + 1]["teachers"]["dense"]["weight"] == pytest.approx(0.5)


def test_bf16_is_close_to_fp32(tmp_path: Path) -> None:
    run_tiny(tmp_path / "f", "epochs=1")
    run_tiny(tmp_path / "b", "epochs=1", "amp=bf16")
    for a, b in zip(records(tmp_path / "f"), records(tmp_path / "b")):
        assert b["loss"] == pytest.approx(a["loss"], rel=0.05)
        assert b["loss"] != a["loss"]


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Make the loss of some calls NaN, with NaN gradients everywhere."""
    real = distill_module.total_loss
    calls = iter(range(10**6))

    def patched(*arguments: Any, **options: Any) -> TotalTerms:
        found = real(*arguments, **options)
        assert found.total is not None
        return TotalTerms(found.total * float("nan"), found.terms) if next(calls) in steps else found

    monkeypatch.setattr(distill_module, "total_loss", patched)


def test_non_finite_steps_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(monkeypatch, {2, 3, 6})
    result = run_tiny(tmp_path, "max_bad_steps=3")
    assert (result.steps, result.skipped) == (8, 3)
    assert np.isfinite(records(tmp_path, "validation")[-1]["distillation"])
    said = capsys.readouterr().err
    assert "warning: step 2: loss or gradient is not finite, step skipped (scenes room" in said


def test_training_gives_up_after_several_bad_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, {1, 2, 3, 4, 5, 6, 7})
    with pytest.raises(
        ChorusError, match=r"training gave up: 3 steps in a row .* \(step 3\) on scenes room\d, room\d; lower"
    ):
        run_tiny(tmp_path, "max_bad_steps=3")


def test_skipped_step_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, recipe = make_run(tmp_path, "encoder.overrides.norm=batch")
    assert [n for n, _ in recipe.model.encoder.named_buffers()]  # running statistics are at stake, too
    before = {k: v.clone() for k, v in recipe.model.state_dict().items()}
    poison(monkeypatch, {0})
    run.trainer.step(0)
    assert run.trainer.progress.skipped == 1
    for name, value in recipe.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    run.trainer.step(1)
    assert any(not torch.equal(v, before[n]) for n, v in recipe.model.state_dict().items())


def test_full_disk_in_mid_run_costs_one_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = checkpointing.write_bytes_atomically
    fail = [False]

    def full(path: Path, data: bytes) -> None:
        if fail[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data)

    monkeypatch.setattr(checkpointing, "write_bytes_atomically", full)
    run_tiny(tmp_path / "whole", "epochs=8")
    run, _ = make_run(tmp_path / "full", "epochs=8")
    after = run._after_step

    def watch(step: int, *rest: Any) -> None:
        fail[0] = step == 5  # the second checkpoint
        after(step, *rest)
        if step == 5:
            own = run.trainer
            kept = checkpointing.load_state(run.folder.state, own.model, own.optimizer, own.ema)
            assert kept.step == 3
            raise KeyboardInterrupt

    run._after_step = watch  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert "warning: disk full, checkpoint not saved; the previous one is kept" in capsys.readouterr().err
    fail[0] = False
    run_tiny(tmp_path / "full", "epochs=8")
    whole, resumed = (tmp_path / n / "state.safetensors" for n in ("whole", "full"))
    assert whole.read_bytes() == resumed.read_bytes()
    fail[0] = True
    with pytest.raises(OSError, match="No space left"):
        run_tiny(tmp_path / "last", "epochs=1")


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    run_tiny(tmp_path, "epochs=1")
    with pytest.raises(
        ConfigError, match=r"holds a run with other settings \(optim.lr: 0.005, now 0.1\); give another --out"
    ):
        run_tiny(tmp_path, "epochs=1", "optim.lr=0.1")
    with pytest.raises(ConfigError, match=r"epochs: 1, now 2"):
        run_tiny(tmp_path, "epochs=2")
    data = tiny_data()
    with pytest.raises(ConfigError, match=r"scenes: 4 entries, now 3"):
        train(tiny_config("epochs=1"), type(data)(data.scenes[1:], [], data.standardisers), tmp_path, CPU)
    before = (tmp_path / "state.safetensors").read_bytes()
    run_tiny(tmp_path, "epochs=1", "data.workers=0", "checkpoint_every=77", "data.memory_mb=1")  # changes no number
    assert (tmp_path / "state.safetensors").read_bytes() == before


def test_other_validation_scenes_are_refused(tmp_path: Path) -> None:
    """The best score so far is one over the scenes that it was measured on."""
    data, config = tiny_data(), tiny_config("epochs=1")
    train(config, data, tmp_path, CPU)
    with pytest.raises(ConfigError, match=r"validation: .*'room0'.*, now .*'room1'"):
        train(config, TrainData(data.scenes, data.scenes[1:2], data.standardisers), tmp_path, CPU)
    with pytest.raises(ConfigError, match="validation: 1 entries, now 0"):
        train(config, TrainData(data.scenes, [], data.standardisers), tmp_path, CPU)


@pytest.mark.parametrize("refused", ["data.weights.typo=1", "data.weights.made-up=0", "zero_shot=true"])
def test_a_start_that_is_refused_leaves_the_folder_free(tmp_path: Path, refused: str) -> None:
    with pytest.raises(ConfigError):
        run_tiny(tmp_path, "epochs=1", refused)
    assert not (tmp_path / "train.json").exists()
    run_tiny(tmp_path, "epochs=1")


def test_damaged_state_is_named(tmp_path: Path) -> None:
    run_tiny(tmp_path, "epochs=1")
    state = tmp_path / "state.safetensors"
    data = state.read_bytes()
    for broken in (data[:100], data[:-7], b"", data.replace(b"chorus", b"chorux", 1)):
        state.write_bytes(broken)
        with pytest.raises(
            WeightsError, match=r"state.safetensors: damaged training state .* delete it to start the run anew"
        ):
            run_tiny(tmp_path, "epochs=1")
    for foreign in (data.replace(b"optim/", b"optin/", 1), data.replace(b"bad_steps", b"bat_steps", 1)):
        state.write_bytes(foreign)
        with pytest.raises(WeightsError, match=r"state.safetensors: training state of another model .* delete it"):
            run_tiny(tmp_path, "epochs=1")


def test_out_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file; --out names a folder"):
        run_tiny(tmp_path / "file")


def test_batch_is_shared_evenly_or_refused() -> None:
    assert [Processes(r, 3).share(6) for r in range(3)] == [(0, 2), (2, 4), (4, 6)]
    with pytest.raises(ConfigError, match="batch_size 4 is not divisible by 3 processes"):
        Processes(0, 3).share(4)


def test_first_difference_names_the_key() -> None:
    a = {"config": {"seed": 0, "data": {"workers": 1, "crop": "rows"}}, "scenes": [["a", "1"]]}
    assert first_difference(a, a) == ""
    assert first_difference(a, a | {"config": {"seed": 0, "data": {"workers": 9, "crop": "rows"}}}) == ""
    assert first_difference(a, a | {"config": {"seed": 1, "data": a["config"]["data"]}}) == "seed: 0, now 1"  # type: ignore[index]
    assert first_difference(a, a | {"scenes": [["a", "2"]]}) == "scenes: ['a', '1'], now ['a', '2']"


def test_bad_schedule_is_refused() -> None:
    for settings, message in (
        (["teachers.text.start=2"], "no teacher is active in the first epoch"),
        (["teachers.text.end=0"], "ends at epoch 0, before it starts"),
        (["teachers.text.cosine_weight=0", "teachers.text.smooth_l1_weight=0"], "nothing to match"),
        (["data.crop=cube"], "data.crop"),
        (["data.weights.made-up=-1"], r"'data\.weights\.made-up': Input should be greater than or equal to 0"),
        (["data.weights.made-up=nan"], r"'data\.weights\.made-up': Input should be"),
        (["optim.betas=[0.9, 1.0]"], r"'optim\.betas\.1': Input should be less than 1"),
        (["optim.betas=[-0.1, 0.9]"], r"'optim\.betas\.0': Input should be greater than or equal to 0"),
        (["optim.lrr=1"], "unknown key 'optim.lrr'; did you mean 'optim.lr'"),
    ):
        with pytest.raises(ConfigError, match=message):
            tiny_config(*settings)
