"""The whole task: from scenes to scores, its promises about freezing, resuming, workers and order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import evaluation.finetuning.recipe as recipe_module
from chorus_common.runtime.errors import ChorusError, ConfigError
from chorus_common.runtime.weight_files import weights_fingerprint
from chorus_common.scene_io.npy_folder import read_npy_folder, write_npy_folder
from evaluation.cli import cli
from evaluation.data_efficiency import Limit
from evaluation.finetuning.data import LabelledDataset
from evaluation.finetuning.model import Segmentor, build_segmentor
from evaluation.finetuning.recipe import FineTuneRecipe, class_weights, finetune_model
from evaluation.finetuning.settings import FineTuneConfig
from evaluation.scene_scores import SceneScores
from evaluation.tasks.finetune import ScoreScene
from tests.evaluation.labelled_rooms import (
    LabelledRooms,
    labelled_scene,
    make_labelled_rooms,
    source_scene,
    tiny_encoder,
)

THINGS = np.array([False, False] + [True] * 18)
SHORT = {"steps": 4, "batch_size": 2, "max_points": 400, "workers": 0, "optim": {"lr": 0.02}}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> LabelledRooms:
    return make_labelled_rooms(tmp_path_factory.mktemp("labelled"))


def settings(**changes: object) -> FineTuneConfig:
    return FineTuneConfig.model_validate({**SHORT, **changes})


def model_and_data(rooms: LabelledRooms, config: FineTuneConfig) -> tuple[Segmentor, LabelledDataset]:
    model = build_segmentor(tiny_encoder(), 20, config)
    scenes = [source_scene(rooms, f"train_{i}") for i in range(3)]
    data = LabelledDataset(scenes, "scannet20", THINGS, model.encoder.config, config, Limit.of(config.limit))
    return model, data


def frozen_state(model: Segmentor) -> dict[str, torch.Tensor]:
    own = [n for n in model.state_dict() if n.startswith("encoder.") and not n.startswith("encoder.dec.")]
    return {n: model.state_dict()[n].clone() for n in own}


@pytest.mark.parametrize("mode", ["linear", "decoder"])
def test_a_strict_probe_leaves_weights_and_statistics_to_the_bit(
    labelled: LabelledRooms, tmp_path: Path, mode: str
) -> None:
    model, data = model_and_data(labelled, config := settings(mode=mode))
    before, head = frozen_state(model), model.classes.weight.clone()
    finetune_model(model, data, config, tmp_path, "test")
    after = frozen_state(model)
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(head, model.classes.weight)


def test_the_published_setting_drifts(labelled: LabelledRooms, tmp_path: Path) -> None:
    model, data = model_and_data(labelled, config := settings(freeze="published"))
    before = frozen_state(model)
    finetune_model(model, data, config, tmp_path, "test")
    changed = {name for name, value in frozen_state(model).items() if not torch.equal(before[name], value)}
    assert any("running_mean" in name for name in changed)
    assert all("running" in name or "num_batches" in name for name in changed), "weights stay"


def test_full_fine_tuning_changes_the_encoder_and_learns(labelled: LabelledRooms, tmp_path: Path) -> None:
    config = settings(mode="full", steps=12, augment={"enabled": False})
    model, data = model_and_data(labelled, config)
    before = frozen_state(model)
    finetune_model(model, data, config, tmp_path, "test")
    stem = {n: p for n, p in model.encoder.named_parameters() if n.startswith("embedding.")}
    assert stem
    assert all(not torch.equal(p, before[f"encoder.{n}"]) for n, p in stem.items())
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])


class StoppedError(Exception):
    pass


@pytest.mark.parametrize(("task", "workers"), [("semantic", 0), ("instance", 2)])
def test_resuming_and_workers_change_no_bit(
    labelled: LabelledRooms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, workers: int
) -> None:
    config = settings(mode="full", task=task, checkpoint_every=2)
    model, data = model_and_data(labelled, config)
    finetune_model(model, data, config, tmp_path / "whole", "test")

    loss = FineTuneRecipe.loss
    calls = 0

    def dies(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise StoppedError
        return loss(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(FineTuneRecipe, "loss", dies)
    broken, data = model_and_data(labelled, config)
    with pytest.raises(StoppedError):
        finetune_model(broken, data, config, tmp_path / "parts", "test")
    monkeypatch.setattr(FineTuneRecipe, "loss", loss)
    again, data = model_and_data(labelled, free := config.model_copy(update={"workers": workers, "memory_mb": 0}))
    finetune_model(again, data, free, tmp_path / "parts", "test")
    assert weights_fingerprint(again) == weights_fingerprint(model)
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(4))


def test_another_run_in_the_folder_is_refused(labelled: LabelledRooms, tmp_path: Path) -> None:
    model, data = model_and_data(labelled, config := settings(steps=1))
    finetune_model(model, data, config, tmp_path, "test")
    with pytest.raises(ConfigError, match="other settings"):
        finetune_model(*model_and_data(labelled, other := settings(steps=2)), other, tmp_path, "test")


def test_other_labels_are_another_run(tmp_path: Path) -> None:
    """The same paths and settings, but the labels of a scene, its annotated points or the label space have changed."""
    rooms = make_labelled_rooms(tmp_path / "rooms")
    for i in range(3):
        scene = labelled_scene(i)
        folder = rooms.root / "train" / f"train_{i}"
        np.save(folder / "pc_coord.npy", scene.means)
        np.save(folder / "pc_segment.npy", scene.labels)  # type: ignore[arg-type]
    lists = tmp_path / "lists.json"

    def listing(first: int) -> None:
        lists.write_text(json.dumps({f"train_{i}": list(range(first, first + 200)) for i in range(3)}))

    listing(0)
    config = settings(steps=1, limit={"point_lists": str(lists)})
    finetune_model(*model_and_data(rooms, config), config, tmp_path / "run", "test")
    finetune_model(*model_and_data(rooms, config), config, tmp_path / "run", "test")  # the same: done, not refused
    listing(1)
    with pytest.raises(ConfigError, match=r"holds a run with other settings \(scenes: .*train_0"):
        finetune_model(*model_and_data(rooms, config), config, tmp_path / "run", "test")
    listing(0)
    model, data = model_and_data(rooms, config)
    data.label_space = "s3dis13"
    with pytest.raises(ConfigError, match=r"\(label_space: scannet20, now s3dis13\)"):
        finetune_model(model, data, config, tmp_path / "run", "test")
    np.save(rooms.root / "train" / "train_1" / "segment.npy", np.full(600, 4, np.int16))
    with pytest.raises(ConfigError, match=r"scenes: .*train_1"):
        finetune_model(*model_and_data(rooms, config), config, tmp_path / "run", "test")


def test_steps_that_are_not_finite_are_skipped_and_then_given_up(
    labelled: LabelledRooms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = model_and_data(labelled, config := settings(max_bad_steps=3, mode="full"))
    before = weights_fingerprint(model)
    monkeypatch.setattr(recipe_module, "lovasz_softmax", lambda p, y: p.sum() * float("nan"))
    with pytest.raises(ChorusError, match="3 steps in a row were not finite"):
        finetune_model(model, data, config, tmp_path, "test")
    assert weights_fingerprint(model) == before


def test_class_weights_are_inverse_shares(labelled: LabelledRooms) -> None:
    _, data = model_and_data(labelled, settings())
    counts = data.class_counts(20)
    weights = class_weights(data, 20, "balanced")
    assert weights is not None
    shares = counts * weights.numpy()
    np.testing.assert_allclose(shares[counts > 0], counts.sum() / (counts > 0).sum(), rtol=1e-5)
    assert (weights.numpy()[counts == 0] == 0).all()
    assert class_weights(data, 20, "plain") is None


def test_order_of_points_changes_no_count(labelled: LabelledRooms, tmp_path: Path) -> None:
    """The same room with its rows in another order: same confusion matrix, same instances."""
    config = settings(task="instance", mode="full", grouping={"min_points": 3}, min_region=5)
    model, data = model_and_data(labelled, config)
    finetune_model(model, data, config, tmp_path / "run", "test")
    scores = SceneScores(tuple(map(str, range(20))), tuple(map(str, range(18))), {}, config.min_region)
    score = ScoreScene(model, config, "scannet20", THINGS, scores, "gaussians", 25)
    where = source_scene(labelled, "val_0")
    assert where.source is not None
    scene = read_npy_folder(where.source)
    moved = write_npy_folder(scene.select(np.random.default_rng(0).permutation(len(scene))), tmp_path / "moved")
    plain, other = score(where), score(replace(where, source=moved))
    assert plain["counts"] == other["counts"]
    assert plain["matches"] == other["matches"]
    assert len(plain["matches"]["pred_class"]) > 0


def call(*arguments: object) -> int:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return int(result.return_value or 0)


def command(rooms: LabelledRooms, out: Path, *more: object) -> list[object]:
    fixed = [f"--set={key}={value}" for key, value in {"steps": 3, "batch_size": 2, "max_points": 400}.items()]
    where = ["finetune", "--manifest", rooms.manifest, "--encoder", rooms.encoder, "--out", out]
    return [*where, *fixed, "--set", "min_region=5", "--set", "grouping.min_points=3", *more]


def test_the_command_from_manifest_to_result(labelled: LabelledRooms, tmp_path: Path) -> None:
    out = tmp_path / "one.json"
    assert call(*command(labelled, out, "--task", "instance", "--mode", "linear", "--random")) == 0
    document = json.loads(out.read_text())
    assert set(document["rows"]) == {"trained", "random"}
    assert list(document["per_scene"]) == ["toy/val_0", "toy/val_1"]
    assert document["learned_from"]["scenes"] == [f"toy/train_{i}" for i in range(3)]
    assert document["rows"]["trained"]["instances"]["ap25"] is not None
    first = out.read_bytes()
    counts = (tmp_path / "one.scenes.parquet").read_bytes()
    assert call(*command(labelled, out, "--task", "instance", "--mode", "linear", "--random")) == 0, "goes on: done"
    assert out.read_bytes() == first
    assert (tmp_path / "one.scenes.parquet").read_bytes() == counts
    scores = SceneScores.read(tmp_path / "one.scenes.parquet")
    assert scores.total("trained").scores().miou == document["rows"]["trained"]["miou"]


@pytest.mark.slow
def test_workers_that_score_change_nothing(labelled: LabelledRooms, tmp_path: Path) -> None:
    for name, workers in (("a", 1), ("b", 2)):
        assert call(*command(labelled, tmp_path / f"{name}.json", "--workers", workers)) == 0
    a, b = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    assert a["rows"] == b["rows"]
    assert a["per_scene"] == b["per_scene"]


@pytest.mark.slow
def test_a_killed_command_goes_on_and_gives_the_same_bytes(labelled: LabelledRooms, tmp_path: Path) -> None:
    program = "import sys; sys.argv[0] = 'chorus-eval'; from evaluation.cli import main; main()"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    wanted = ("--mode", "full", "--set", "checkpoint_every=1", "--set", "steps=40")
    killed, whole = tmp_path / "killed.json", tmp_path / "whole.json"
    words = [sys.executable, "-c", program, *map(str, command(labelled, killed, *wanted))]
    child = subprocess.Popen(words, env=environment)
    state = tmp_path / "killed.run" / "trained" / "state.safetensors"
    while not state.exists() and child.poll() is None:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not killed.exists()
    for out in (killed, whole):
        words[3:] = map(str, command(labelled, out, *wanted))
        subprocess.run(words, env=environment, check=True)
    a, b = json.loads(killed.read_text()), json.loads(whole.read_text())
    for document, out in ((a, killed), (b, whole)):  # what names the output itself
        document.pop("command")
        assert document["inputs"].pop("run_folder") == str(out.with_suffix(".run"))
    assert a == b


def test_bad_input_is_one_line(labelled: LabelledRooms, tmp_path: Path) -> None:
    for more, message in (
        (["--split", "train"], "both 'train'"),
        (["--split", "nowhere"], "no scenes in split 'nowhere'"),
        (["--hold-out", "Area_9*"], "holds out 0 of 5 scenes"),
        (["--set", "mod=full"], "unknown key 'mod'; did you mean 'mode'"),
        (["--set", "features=levels", "--mode", "full"], "is what a linear probe may see"),
        (["--encoder", tmp_path / "none"], "none"),
        (["--label-space", "scanet20"], "scanet20"),
    ):
        with pytest.raises(ChorusError, match=message):
            call(*command(labelled, tmp_path / "r.json", *more))


def test_a_fold_is_scored_on_what_it_holds_out(labelled: LabelledRooms, tmp_path: Path) -> None:
    out = tmp_path / "fold.json"
    assert call(*command(labelled, out, "--hold-out", "*_1", "--set", "steps=1")) == 0
    document = json.loads(out.read_text())
    assert list(document["per_scene"]) == ["toy/train_1", "toy/val_1"]
    assert document["learned_from"]["scenes"] == ["toy/train_0", "toy/train_2", "toy/val_0"]
