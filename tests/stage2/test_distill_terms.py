"""Parts of the training loop beside the plain match: contrast, balance, mixed and point-cloud samples, checks, logs."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from chorus_common.labels import SCANNET20
from chorus_common.runtime.errors import ConfigError
from stage2_distill import zero_shot as zero_shot_module
from stage2_distill.data.augment import AugmentConfig
from stage2_distill.data.batch import Batch, TeacherTarget
from stage2_distill.data.dataset import CacheDataset, SceneEntry
from stage2_distill.data.mix import joint_scene, summed_targets
from stage2_distill.distill import DistillRecipe
from stage2_distill.encoder import EncoderConfig
from stage2_distill.encoder.config import InputConfig
from stage2_distill.engine.distributed import Processes
from stage2_distill.engine.loop import Run
from stage2_distill.engine.optim import lr_scale
from stage2_distill.engine.settings import OptimSettings
from stage2_distill.settings import DataSettings
from stage2_distill.start import TrainData
from stage2_distill.zero_shot import ZeroShotCheck
from tests.stage2.store_fakes import MemoryStore, add_masks, make_entries, random_scene
from tests.stage2.test_distill import CPU, records, stop_after
from tests.stage2.train_child import tiny_config, tiny_data, tiny_run

ENCODER = EncoderConfig(inputs=InputConfig(grid_size=0.1))
CONTRAST = (
    "teachers.text.masks.weight=0.1", "teachers.text.masks.cover=0.0", "teachers.text.masks.start=1",
    "teachers.dense.labels.weight=0.1", "teachers.dense.labels.min_rows=5",
)  # fmt: skip


def masked_data() -> TrainData:
    data = tiny_data()
    add_masks(list(data.scenes))
    return data


def make(out: Path, data: TrainData, *settings: str) -> Run[Batch]:
    return tiny_run(out, tiny_config(*settings), data)


def recipe(data: TrainData, *settings: str) -> DistillRecipe:
    return DistillRecipe(tiny_config(*settings), data, CPU)


def test_contrast_and_balance_resume_to_the_bit(tmp_path: Path) -> None:
    settings = (*CONTRAST, "balance=adaloss", "data.mix_p=0.5", "data.views=2")
    run = make(tmp_path / "whole", masked_data(), *settings)
    run.train()
    stop_after(tiny_config(*settings), masked_data(), tmp_path / "halves", step=4)
    make(tmp_path / "halves", masked_data(), *settings).train()
    one, two = ((tmp_path / n / "state.safetensors").read_bytes() for n in ("whole", "halves"))
    assert one == two
    steps = records(tmp_path / "whole")
    assert "masks" not in steps[0]["teachers"]["text"]  # its stage starts in epoch 1
    assert steps[-1]["teachers"]["text"]["masks"] > 0
    assert steps[0]["teachers"]["dense"]["labels"] > 0
    assert "labels" not in steps[0]["teachers"]["text"]
    # a teacher's weight is one over the running mean of its loss
    losses = run.trainer.progress.memory
    assert isinstance(run.recipe, DistillRecipe)
    weights = run.recipe.term_weights(8)
    assert set(losses) == {"text", "dense"}
    for name, loss in losses.items():
        assert weights[name].teacher == pytest.approx(1 / loss)


def test_running_means_of_losses_start_at_the_first_and_skip_absent_teachers() -> None:
    distill = recipe(tiny_data(), "balance=adaloss", "balance_decay=0.9")
    for losses in ({"text": 2.0, "dense": 0.0}, {"text": 1.0, "dense": 4.0}):
        distill.after_step(losses)
    assert distill.memory == {"text": pytest.approx(0.9 * 2 + 0.1), "dense": 4.0}


def test_learning_rates_fall_with_depth() -> None:
    optim = OptimSettings(encoder_lr_scale=0.5, block_lr_scale=0.1, layer_decay=0.8)
    found = {
        name: lr_scale(name, 3, optim)
        for name in (
            "projectors.text.0.weight", "encoder.dec.dec0.up.proj.0.weight", "encoder.dec.dec1.block0.mlp.weight",
            "encoder.enc.enc2.down.proj.weight", "encoder.enc.enc0.block1.conv.weight", "encoder.embedding.stem.weight",
        )
    }  # fmt: skip
    expected = [1, 0.5 * 0.8, 0.05 * 0.8**2, 0.5 * 0.8**3, 0.05 * 0.8**5, 0.5 * 0.8**6]
    assert list(found.values()) == pytest.approx(expected)
    assert {lr_scale(name, 3, OptimSettings()) for name in found} == {1.0}


def dataset(entries: list[SceneEntry], encoder: EncoderConfig = ENCODER, **data: Any) -> CacheDataset:
    settings = DataSettings(**data)
    return CacheDataset(entries, {"text": 8, "dense": 12}, {}, encoder, settings, AugmentConfig(), seed=1, batch_size=2)


def test_mixed_scenes_share_unique_voxels_and_keep_their_targets() -> None:
    mixed = dataset(make_entries(scenes=3), mix_p=1.0, max_points=200)
    for index in range(6):
        batch = mixed.sample(0, index, index % 3)
        assert len(batch) == 1
        assert len(batch.scenes) == 2
        grid = batch.points.grid_coord
        assert len(grid.unique(dim=0)) == len(grid)
        rows = batch.targets["text"].rows
        assert len(rows.unique()) == len(rows)
    entries = make_entries(scenes=2)
    del entries[1].store.cells["dense"]  # type: ignore[attr-defined]
    batches = [dataset(entries, mix_p=1.0, max_points=100).sample(0, i, 0) for i in range(4)]
    partnered = [b for b in batches if b.scenes[0] != b.scenes[1]]
    assert partnered
    for batch in partnered:  # what one scene lacks, the other still says of its own voxels
        assert 0 < len(batch.targets["dense"].rows) < len(batch.targets["text"].rows)


def test_targets_of_shared_voxels_are_weighted_means() -> None:
    rng = np.random.default_rng(0)
    parts = []
    for rows in ([0, 2, 5], [2, 3, 5, 7]):
        values, weight = rng.standard_normal((len(rows), 2)), rng.uniform(0.1, 2, len(rows))
        parts.append(
            {"t": TeacherTarget(torch.tensor(rows), *map(torch.from_numpy, (values, weight)), torch.zeros(len(rows)))}
        )
    found = summed_targets(parts, [])["t"]
    assert found.rows.tolist() == [0, 2, 3, 5, 7]
    for row, value, weight in zip(found.rows.tolist(), found.values, found.weight):
        at = [(p["t"], i) for p in parts for i, r in enumerate(p["t"].rows.tolist()) if r == row]
        having = [(t.values[i], t.weight[i]) for t, i in at]
        total = sum(w for _, w in having)
        torch.testing.assert_close(weight, total)
        torch.testing.assert_close(value, sum(v * w for v, w in having) / total)
    apart = summed_targets(parts, [6, 8])["t"]  # pixels: every part has its own
    assert apart.rows.tolist() == [0, 2, 5, 8, 9, 11, 13]


def test_a_joint_scene_keeps_instances_apart_and_foreign_labels_out() -> None:
    rng = np.random.default_rng(0)
    a, b = random_scene(rng, 20), random_scene(rng, 30)
    a = replace(a, instances=rng.integers(-1, 3, 20).astype(np.int32), label_space="scannet20")
    b = replace(b, instances=rng.integers(-1, 4, 30).astype(np.int32), label_space="s3dis13")
    joint = joint_scene([a, b])
    assert joint.labels is not None
    assert joint.instances is not None
    np.testing.assert_array_equal(joint.labels[:20], a.labels)
    assert (joint.labels[20:] == -1).all()
    assert not set(joint.instances[:20][a.instances >= 0]) & set(joint.instances[20:][b.instances >= 0])
    np.testing.assert_array_equal(joint.instances[20:] < 0, b.instances < 0)
    for part, rows in ((a, slice(0, 20)), (b, slice(20, 50))):
        np.testing.assert_allclose(np.ptp(joint.means[rows], axis=0), np.ptp(part.means, axis=0), atol=1e-5)
        assert abs(joint.means[rows, 2].min()) < 1e-6


def test_point_cloud_samples_lack_what_only_gaussians_have() -> None:
    inputs = InputConfig(grid_size=0.1, features=("color", "opacity", "quat", "scale"), indicator=True)
    encoder = EncoderConfig(inputs=inputs, in_channels=15)
    for share, kinds in ((0.0, {1.0}), (1.0, {0.0}), (0.5, {0.0, 1.0})):
        entries = make_entries(scenes=2)
        batches = [dataset(entries, encoder, points_p=share).sample(0, i, 0) for i in range(12)]
        found = set()
        for batch in batches:
            feat = batch.points.feat
            flags = feat[0, -4:].tolist()
            assert flags[0] == 1  # colour
            assert flags[1:] == [flags[1]] * 3
            found.add(flags[1])
            assert bool((feat[:, 3:11] == 0).all()) == (flags[1] == 0)
            assert batch.targets["text"].values.abs().sum() > 0
        assert found == kinds


class _Named:
    """A text encoder whose classes are unit vectors."""

    pair = ""
    channels = 8

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.eye(len(texts), self.channels, dtype=np.float32)


def test_zero_shot_check_counts_as_the_definition_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero_shot_module, "load_text_encoder", lambda spec: _Named())
    monkeypatch.setitem(zero_shot_module.LABEL_SPACES, "scannet20", ("wall", "chair", "table", "bed"))
    student = recipe(tiny_data()).plain
    check = ZeroShotCheck(student, "text", "scannet20")
    rng = np.random.default_rng(0)
    truth, voxel = rng.integers(-1, 3, 300).astype(np.int32), rng.integers(40, size=300)
    latent = torch.randn(40, student.encoder.out_channels)
    with torch.no_grad():
        check.add(latent, voxel, truth)
        asked = student.to_teacher_space("text", latent).numpy()[:, :4].argmax(1)[voxel]
    ious = {}
    for k in range(3):
        both = sum(1 for t, a in zip(truth, asked) if t == k and a == k)
        either = sum(1 for t, a in zip(truth, asked) if t >= 0 and (t == k or a == k))
        ious[k] = both / either
    scores = check.scores()
    assert scores["miou"] == pytest.approx(np.mean(list(ious.values())))
    assert scores["f_miou"] == pytest.approx((ious[1] + ious[2]) / 2)  # without the wall
    assert len(SCANNET20) == 20  # the table itself is untouched


def test_best_student_by_zero_shot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero_shot_module, "load_text_encoder", lambda spec: _Named())
    data = tiny_data()
    labelled = []
    for entry in data.scenes:
        store = entry.store
        assert isinstance(store, MemoryStore)
        labelled.append(
            replace(entry, store=replace(store, gaussians=replace(store.gaussians, label_space="scannet20")))
        )
    data = TrainData(labelled, labelled[:2], data.standardisers, frozenset({"text"}))
    make(tmp_path / "a", data, "zero_shot=true", "best_by=zero_shot", "validate_every=1").train()
    found = records(tmp_path / "a", "validation")
    assert len(found) == 4
    best = max(r["zero_shot"]["f_miou"] for r in found)
    state = json.loads(_header(tmp_path / "a" / "state.safetensors")["chorus"])["progress"]
    assert state["best"] == pytest.approx(-best)
    with pytest.raises(ConfigError, match="needs a text-aligned teacher"):
        make(tmp_path / "b", replace(data, text_aligned=frozenset()), "zero_shot=true")
    with pytest.raises(ConfigError, match="needs validation scenes; give --val-split"):
        make(tmp_path / "c", replace(data, validation=[]), "zero_shot=true")
    with pytest.raises(ConfigError, match='best_by = "zero_shot" needs zero_shot = true'):
        tiny_config("best_by=zero_shot")


def _header(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def test_wandb_gets_every_scalar_or_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"wandb is set, but the package is not installed; pip install"):
        make(tmp_path / "a", tiny_data(), "wandb=chorus", "epochs=1").train()
    logged: list[dict[str, float]] = []
    started: list[dict[str, Any]] = []
    run = SimpleNamespace(log=logged.append, finish=lambda: started.append({}), define_metric=lambda *a, **k: None)
    fake = SimpleNamespace(init=lambda **given: started.append(given) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    make(tmp_path / "a", tiny_data(), "wandb=chorus", "epochs=1").train()
    assert started[0]["project"] == "chorus"
    assert started[0]["resume"] == "allow"
    assert started[-1] == {}
    assert [line["step"] for line in logged if "step/loss" in line] == [0, 1]
    assert logged[0]["step/loss"] == records(tmp_path / "a")[0]["loss"]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_number_of_processes_moves_no_sample(world: int) -> None:
    data = dataset(make_entries(scenes=3), max_points=100, mix_p=0.3)
    data = CacheDataset(
        make_entries(scenes=3), {"text": 8}, {}, ENCODER, data.data, AugmentConfig(), seed=1, batch_size=4
    )
    whole = data.batch(1, 0, 4)
    shares = [data.batch(1, *Processes(rank, world).share(4)) for rank in range(world)]
    assert tuple(n for b in shares for n in b.scenes) == whole.scenes
    assert torch.equal(torch.cat([b.points.feat for b in shares]), whole.points.feat)
    assert torch.equal(torch.cat([b.targets["text"].values for b in shares]), whole.targets["text"].values)


def test_an_infinite_target_costs_its_step_and_no_weight(tmp_path: Path) -> None:
    trainer = make(tmp_path, tiny_data()).trainer
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    batch: Batch = trainer.batches(0)[0]
    broken = {n: replace(t, values=torch.full_like(t.values, float("nan"))) for n, t in batch.targets.items()}
    found = trainer.step(0, [replace(batch, targets=broken)])
    assert "step 0: loss or gradient is not finite, step skipped (scenes room" in found.warning
    assert trainer.progress.skipped == 1
    assert all(torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())
