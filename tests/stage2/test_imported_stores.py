"""Training from imported and own caches mixed, and what of stage 2 needs views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from chorus_common.cache import SceneCache
from chorus_common.manifest import Manifest
from chorus_common.runtime.config import load_config
from chorus_common.runtime.errors import ConfigError
from stage1_render_teachers.exchange.export_run import run_export
from stage1_render_teachers.exchange.import_run import run_import
from stage1_render_teachers.exchange.settings import ImportConfig
from stage1_render_teachers.run import run_stage1
from stage1_render_teachers.settings import RunConfig
from stage2_distill.data.dataset import CacheDataset, SceneEntry
from stage2_distill.data.targets import ByteBudget, SceneTargets, voxel_targets
from stage2_distill.distill import train
from stage2_distill.settings import TrainConfig
from stage2_distill.sources import find_scenes, open_scenes, read_standardisers
from stage2_distill.start import TrainData
from tests.stage1.release_folders import index_release, write_release
from tests.stage1.small_rooms import CONFIG, write_rooms
from tests.stage2.test_data_dataset import ENCODER
from tests.stage2.train_child import TINY

DENSE = "embedded-dense"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two own scenes, and the same two imported from what was exported of them, beside two of a release
    with a teacher of its own."""
    root = tmp_path_factory.mktemp("mixed")
    rooms = write_rooms(root / "rooms", 2)
    run_stage1(list(Manifest.read(rooms)), root / "store", CONFIG, RunConfig())
    run_export(list(Manifest.read(rooms)), root / "store", root / "out", RunConfig(), {"dense": DENSE}, unit=False)
    exported = index_release(root / "out" / "tiny" / "train")
    settings = ImportConfig(bits="fp16")
    run_import(list(Manifest.read(exported)), root / "store", settings, RunConfig(), {})
    release = write_release(root / "release", 2)
    rows = [row.__class__(**{**row.__dict__, "dataset": "other"}) for row in Manifest.read(release)]
    run_import(rows, root / "store", settings, RunConfig(), {"lang": ""})
    return root / "store"


def entries(store: Path) -> list[SceneEntry]:
    return open_scenes(find_scenes([store], None, None, print))


def targets_of(entry: SceneEntry, name: str, budget: int = 0) -> SceneTargets:
    channels = entry.store.dense_teachers[name].channels
    return SceneTargets(
        entry.store, entry.scene_id, {name: channels}, min_weight=0.05, min_views=1, budget=ByteBudget(budget)
    )


@pytest.mark.parametrize("budget", [0, 1 << 24])
def test_imported_targets_are_those_that_were_exported(mixed: Path, budget: int) -> None:
    found = {(e.dataset, e.scene_id): e for e in entries(mixed)}
    own, imported = (targets_of(found[key, "scene00"], DENSE, budget) for key in ("tiny", "rel"))
    rows = np.arange(0, 400, 3)
    first, second = own.targets(rows, own.geometry()), imported.targets(rows, imported.geometry())
    np.testing.assert_array_equal(first.weight > 0, (second.weight > 0) & second.known[DENSE])
    both = first.weight > 0
    np.testing.assert_allclose(second.values[DENSE][both], first.values[DENSE][both], atol=2e-2)


def test_a_voxel_takes_what_each_teacher_has(mixed: Path) -> None:
    entry = next(e for e in entries(mixed) if e.dataset == "other")
    targets = targets_of(entry, "imported-lang")
    geometry, rows = targets.geometry(), np.arange(400)
    lifted = targets.targets(rows, geometry)
    voxel = rows // 4
    found = voxel_targets(lifted, rows, voxel, 100)["imported-lang"]
    for i in range(100):
        members = [r for r in rows[voxel == i] if lifted.known["imported-lang"][r]]
        place = np.flatnonzero(found.rows.numpy() == i)
        assert len(place) == bool(members)
        if members:
            mean = lifted.values["imported-lang"][members].astype(np.float64).mean(0)
            np.testing.assert_allclose(found.values[place[0]], mean, atol=1e-4)
            assert found.weight[place[0]] == len(members)


def test_a_student_learns_from_imported_and_own_scenes_alike(mixed: Path, tmp_path: Path) -> None:
    scenes = entries(mixed)
    assert {e.dataset for e in scenes} == {"tiny", "rel", "other"}
    standardisers = read_standardisers([mixed], scenes, [])
    assert set(standardisers) == {DENSE, "imported-lang"}
    config = load_config(TrainConfig, None, (*TINY, "epochs=12", "data.max_points=0", "data.mix_p=0.3"))
    result = train(config, TrainData(scenes, scenes[:1], standardisers), tmp_path / "run", torch.device("cpu"))
    assert result is not None
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert len(lines) > 4
    for name in (DENSE, "imported-lang"):
        assert any(name in line for line in lines)


def test_what_renders_needs_views(mixed: Path) -> None:
    scenes = [e for e in entries(mixed) if e.dataset == "rel"]
    config = load_config(TrainConfig, None, TINY)
    with pytest.raises(ConfigError, match="was imported with features per Gaussian and has no views"):
        CacheDataset(
            scenes, {DENSE: 80}, {}, ENCODER, config.data, config.augment, seed=0, batch_size=1,
            objective="rendered",
        )  # fmt: skip
    assert isinstance(scenes[0].store, SceneCache)
