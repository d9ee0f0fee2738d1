"""Pretraining: samples are pure functions whose cameras follow the points, runs resume to the bit, encoders load."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from chorus_common.captures import read_capture
from chorus_common.captures.write import SensorConfig, write_capture
from chorus_common.runtime.errors import CacheError, ChorusError, ConfigError, SceneError
from stage2_distill.data.targets import ByteBudget
from stage2_distill.encode import encode_scene
from stage2_distill.encoder import load_encoder
from stage2_distill.engine.distributed import Processes
from stage2_distill.engine.loop import Run
from stage2_distill.gaussiancross import recipe as recipe_module
from stage2_distill.gaussiancross.data import CaptureDataset, move
from stage2_distill.gaussiancross.model import GaussianCross
from stage2_distill.gaussiancross.recipe import GaussianCrossRecipe, PretrainResult
from stage2_distill.gaussiancross.settings import CaptureAugment
from stage2_distill.gaussiancross.step import step_loss
from stage2_distill.gaussiancross.views import SceneViews
from stage2_distill.start import make_encoder
from tests.stage2.gaussiancross.small_captures import (
    CHANNELS,
    PictureStore,
    make_capture_scenes,
    make_config,
    make_scenes,
)

CPU = torch.device("cpu")


def pretrain(out: Path, *settings: str) -> PretrainResult:
    return recipe_module.pretrain(make_config(*settings), make_capture_scenes(), out, CPU)


def test_a_moved_scene_looks_the_same_to_its_moved_camera() -> None:
    scene = make_scenes(1)[0].points
    for seed in range(5):
        moved, matrix = move(scene, CaptureAugment(), np.random.default_rng(seed))
        there = np.concatenate([scene.means, np.ones((len(scene), 1))], axis=1) @ matrix.T
        np.testing.assert_allclose(moved.means, there[:, :3], atol=1e-5)
    assert abs(abs(np.linalg.det(matrix[:3, :3])) ** (1 / 3) - 1) <= 0.1 + 1e-9


def test_samples_depend_on_seed_and_place_alone_and_points_lie_in_their_cells() -> None:
    config = make_config()
    dataset, again = (CaptureDataset(make_scenes(), make_encoder(config.encoder).config, config) for _ in range(2))
    later = again.batch(3, 0, 2)  # asked for first, which must change nothing
    first, second = dataset.batch(0, 0, 2), dataset.batch(3, 0, 2)
    assert torch.equal(second.points.feat, later.points.feat)
    assert torch.equal(second.supervised_views[3].viewmat, later.supervised_views[3].viewmat)
    assert first.scenes != second.scenes or not torch.equal(first.points.coord[:50], second.points.coord[:50])
    assert len(first.supervised_views) == 4
    assert [supervised.scene for supervised in first.supervised_views] == [0, 0, 1, 1]
    assert len(first.voxels.cells) == len(first.voxels.centres) == len(first.points)
    ends = [0, *first.points.offset.tolist()]
    for b in (0, 1):
        cells = first.voxels.cells[ends[b] : ends[b + 1]]
        assert ((cells >= b * 512) & (cells < (b + 1) * 512)).all()
        # neighbours in space share cells or have neighbouring ones: the shift back to the cuboid is right
        place = torch.stack([cells % 512 // 64, cells // 8 % 8, cells % 8], 1).double()
        coord = first.points.coord[ends[b] : ends[b + 1]].double()
        for axis in range(3):
            assert np.corrcoef(place[:, axis], coord[:, axis])[0, 1] > 0.97
        # centres are the same points in the cuboid: a voxel's edge apart where coordinates are one apart
        centres = first.voxels.centres[ends[b] : ends[b + 1]].double()
        edges = (centres - centres[0]) / first.voxels.size[b]
        torch.testing.assert_close(edges * dataset.encoder.inputs.grid_size, coord - coord[0], rtol=1e-3, atol=1e-3)
        # noise moves points out of the cuboid, rounding over borders of cells
        inside = torch.floor((centres + 0.5) * 8).clip(0, 7)
        assert float((inside == place).all(1).double().mean()) > 0.98


def test_views_are_resampled_to_whole_pixels_per_cell() -> None:
    store = PictureStore(0)
    views = SceneViews(store, "made/room0", ("text", "absent"), 2, None, ByteBudget(0), depth_unit=1e-3)
    target = views.view(1)
    assert (views.width, views.height) == (8, 6)
    wanted = store.rgb([1])[0].astype(np.float64).reshape(6, 4, 8, 4, 3).mean((1, 3)) / 255
    np.testing.assert_allclose(target.color, wanted, atol=1e-3)
    assert list(target.teachers) == ["text"]
    np.testing.assert_allclose(target.teachers["text"], store.features("text", [1])[0].reshape(12, -1), atol=2e-3)
    k = store.cameras().intrinsics[1]
    np.testing.assert_allclose(target.intrinsics, np.diag([0.25, 0.25, 1]) @ k)


def test_captures_are_paired_with_the_cache_by_name(tmp_path: Path) -> None:
    store = PictureStore(0)

    def render(view: int, of) -> tuple[np.ndarray, ...]:
        shape = (of.height, of.width)
        return (
            np.full((*shape, 3), 0.2 + 0.2 * view, np.float32),
            np.full(shape, 1.0 + view, np.float32),
            np.ones(shape),
        )

    some = store.cameras().select([3, 1])
    write_capture(tmp_path / "room0", some, render, layout="plain", sensor=SensorConfig(noise=0))
    views = SceneViews(store, "made/room0", ("text",), 2, tmp_path, ByteBudget(1 << 20), depth_unit=1e-3)
    assert views.views == [1, 3]
    assert float(views.view(3).depth.max()) == pytest.approx(1.0)
    assert float(views.view(1).color.mean()) == pytest.approx(0.4, abs=0.01)
    with pytest.raises(SceneError, match="needs one per scene"):
        SceneViews(store, "made/other", ("text",), 2, tmp_path, ByteBudget(0), depth_unit=1e-3)
    away = PictureStore(0, views=5)  # the same names, other places
    with pytest.raises(SceneError, match=r"room0: view 00000\d stands"):
        SceneViews(away, "made/room0", ("text",), 2, tmp_path, ByteBudget(0), depth_unit=1e-3)
    assert len(read_capture(tmp_path / "room0")) == 2


def test_a_cache_without_depth_is_refused_with_advice() -> None:
    with pytest.raises(CacheError, match="store_depth=true"):
        make_scenes(1, depth=False)


def test_every_attribute_reaches_the_encoder() -> None:
    for name in ("appearance", "geometry", "semantics", "contrast"):
        off = [f"loss.{other}=0" for other in ("appearance", "geometry", "semantics") if other != name]
        config = make_config(*off, *(["loss.contrast=1"] if name == "contrast" else []))
        torch.manual_seed(0)
        encoder = make_encoder(config.encoder)
        model = GaussianCross(encoder, config.head, {"text": CHANNELS}, 8)
        batch = CaptureDataset(make_scenes(2), encoder.config, config).batch(0, 0, 2)
        loss = step_loss(model, batch, config, 0, Processes(0, 1))
        assert loss.total is not None
        loss.total.backward()
        assert set(loss.measured["terms"].values) == {name}
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
        assert sum(float(p.grad.abs().sum()) for p in encoder.parameters() if p.grad is not None) > 0


def test_losses_fall_and_the_encoder_folder_is_an_ordinary_one(tmp_path: Path) -> None:
    result = pretrain(tmp_path / "run", "epochs=12", "mask.ratio=0", "augment.rotate_z=false", "data.views=4")
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    steps = [r for r in records if r["kind"] == "step"]
    # the depth of these pictures is noise: of geometry, only the weight that is missing can be learnt
    for name, share in (("appearance", 0.85), ("geometry", 0.95), ("semantics", 0.5)):
        first, last = (np.mean([r["terms"][name] for r in part]) for part in (steps[:4], steps[-4:]))
        assert last < share * first, name
    assert result.steps == 24
    assert 1 <= result.effective_rank <= result.width == 8
    encoder = load_encoder(tmp_path / "run")
    features = encode_scene(encoder, make_scenes(1)[0].points)
    assert features.shape == (300, 8)
    assert float(features.std()) > 0


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrain(tmp_path / "whole")
    real, calls = recipe_module.step_loss, []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(recipe_module, "step_loss", stopping)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tmp_path / "parts")
    assert len(calls) == 3
    pretrain(tmp_path / "parts", "data.workers=2", "checkpoint_every=50")  # what changes no number may change
    for name in ("model.safetensors", "state.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(ConfigError, match=r"optim\.lr: 0\.01, now 0\.02"):
        pretrain(tmp_path / "parts", "optim.lr=0.02")


def test_a_start_that_is_refused_leaves_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no scenes"):
        recipe_module.pretrain(make_config(), make_capture_scenes([]), tmp_path / "run", CPU)
    assert not (tmp_path / "run" / "train.json").exists()


def test_steps_that_are_not_finite_are_skipped_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = make_scenes(2)
    store = PictureStore(0)
    store._features[:] = np.nan
    views = SceneViews(store, "made/broken", ("text",), 2, None, ByteBudget(0), depth_unit=1e-3)
    scenes[0] = type(scenes[0])("made", store.scene(), views)
    config = make_config("max_bad_steps=2")
    recipe = GaussianCrossRecipe(config, make_capture_scenes(scenes), CPU)
    before = {k: v.clone() for k, v in recipe.model.state_dict().items()}
    with pytest.raises(ChorusError, match=r"pretraining gave up.*made/broken"):
        Run(recipe, tmp_path / "run", Processes(0, 1)).train()
    assert "step skipped" in capsys.readouterr().err
    assert all(torch.equal(v, before[k]) for k, v in recipe.model.state_dict().items())
