"""chorus-stage2 field: train, query, export, and training on what was exported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from chorus_common.cache import SceneCache
from chorus_common.camera_io import write_transforms_json
from chorus_common.runtime.errors import CacheError, ConfigError
from chorus_common.scene_io import read_scene
from stage2_distill.cli import cli
from stage2_distill.commands.field import field_command
from stage2_distill.data.dataset import SceneEntry
from stage2_distill.data.gaussian_teacher import give_features, parse_gaussian_features, write_gaussian_features
from stage2_distill.data.targets import ByteBudget, SceneTargets
from stage2_distill.fields import FieldView, load_field
from stage2_distill.fields.export import lifted_rows
from stage2_distill.fields.pictures import file_names
from stage2_distill.student import load_student
from tests.stage2.fields.field_scene import write_cache

SETTINGS = [f"--set={s}" for s in ("iterations=20", "decoder_width=32", "decoder_layers=3", "min_alpha=0.01")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(field, cache)"""
    root = tmp_path_factory.mktemp("field")
    scene = write_cache(root / "store")
    run(["train", "--scene", scene, "--hold-out", "v2", "--out", root / "field", *SETTINGS])
    return root / "field", scene


def run(arguments: list[object]) -> str:
    result = CliRunner().invoke(field_command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_query_writes_scores_clouds_and_pictures(trained: tuple[Path, Path], tmp_path: Path) -> None:
    field, scene = trained
    told = run(
        ["query", field, "chair", "a table", "--scene", scene, "--view", "v2", "--out", tmp_path / "q", "--json"]
    )
    facts = json.loads(told)
    names = {p.name for p in (tmp_path / "q").iterdir()}
    assert names == {"scores.npz", "chair.ply", "a-table.ply", "v2.chair.png", "v2.a-table.png"}
    with np.load(tmp_path / "q" / "scores.npz") as data:
        assert data["queries"].tolist() == ["chair", "a table"]
        assert data["scores"].shape == (300, 2)
        assert float(data["scores"][:, 0].max()) == pytest.approx(facts["best"]["chair"])
        assert sorted(data["source_ids"].tolist()) == list(range(300))
    assert len(read_scene(tmp_path / "q" / "chair.ply")) == 300


def test_cameras_of_one_stem_keep_their_own_pictures(trained: tuple[Path, Path], tmp_path: Path) -> None:
    field, scene = trained
    cameras = SceneCache.open(scene).cameras().select([0, 1])
    pair = replace(cameras, names=("left/0001", "right/0001"))
    write_transforms_json(pair, tmp_path / "transforms.json", image_pattern="{name}.png")
    told = run(
        ["query", field, "chair", "--scene", scene, "--cameras", tmp_path / "transforms.json", "--out", tmp_path / "q",
         "--json"]
    )  # fmt: skip
    pictures = [Path(p) for p in json.loads(told)["pictures"]]
    assert [p.name.partition("-0001")[0] for p in pictures] == ["left", "right"]
    assert pictures[0].read_bytes() != pictures[1].read_bytes()


def test_exported_features_replace_lifted_ones(trained: tuple[Path, Path], tmp_path: Path) -> None:
    field, scene = trained
    run(["export", field, "--scene", scene, "--out", tmp_path])
    cache = SceneCache.open(scene)
    view = FieldView(load_field(field), cache)
    plain = SceneEntry("toy", "room", cache.fingerprint, cache)
    (entry,) = give_features([plain], {"text": tmp_path})
    assert entry.fingerprint != plain.fingerprint
    given = targets_of(entry)
    lifted = lifted_rows(cache, "text", np.arange(300))
    known = view.seen
    assert 0 < known.sum() < 300
    assert np.abs(given[known] - lifted[known]).max() > 0.1
    valid = cache.visibility()[0] > 0
    np.testing.assert_allclose(given[~known & valid], lifted[~known & valid], atol=0.01)
    own = view.gaussian_features()[known]
    from chorus_common.features.standardise import PhiSStandardiser

    standardiser = PhiSStandardiser.load(scene.parent.parent / "standardisers" / "text.safetensors")
    np.testing.assert_allclose(standardiser.inverse(given[known].astype(np.float32)), own, atol=0.02)
    # cells of the given teacher are what its Gaussians show there
    cells = entry.store.features("text", [1])
    want = cache.lifting().select_views([1]).render(whole(entry))[0]
    np.testing.assert_allclose(cells.reshape(-1, cells.shape[-1]), want, atol=1e-6)


def test_training_on_exported_features_without_validation(trained: tuple[Path, Path], tmp_path: Path) -> None:
    field, scene = trained
    run(["export", field, "--scene", scene, "--out", tmp_path / "features"])
    small = ("enc_channels=[8, 16]", "enc_depths=[1, 1]", "inputs.grid_size=0.3")
    settings = ["epochs=1", "batch_size=1", "threads=1", *(f"encoder.overrides.{s}" for s in small)]
    arguments = ["train", "--store", scene.parent.parent, "--out", tmp_path / "run", "--device", "cpu"]
    arguments += ["--gaussian-features", f"text={tmp_path / 'features'}", *(f"--set={s}" for s in settings)]
    result = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert load_student(tmp_path / "run").teachers == ("text",)


def targets_of(entry: SceneEntry) -> np.ndarray:
    targets = SceneTargets(entry.store, "room", {"text": 64}, min_weight=0.0, min_views=1, budget=ByteBudget(1 << 20))
    geometry = targets.geometry()
    rows = np.arange(300)
    some = targets.targets(rows[5:90:3], geometry, views=[0, 1])
    every = targets.targets(rows, geometry)
    assert np.array_equal(some.values["text"], every.values["text"][5:90:3])
    return every.values["text"]


def whole(entry: SceneEntry) -> np.ndarray:
    return entry.store.lifted_features("text")[0]


def test_npy_export_is_in_source_order(trained: tuple[Path, Path], tmp_path: Path) -> None:
    field, scene = trained
    run(["export", field, "--scene", scene, "--format", "npy", "--out", tmp_path])
    values = np.load(tmp_path / "toy" / "room.npy")
    cache = SceneCache.open(scene)
    np.testing.assert_array_equal(
        values[cache.scene().source_ids], FieldView(load_field(field), cache).gaussian_features()
    )


def test_wrong_options_are_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    field, scene = trained
    with pytest.raises(ConfigError, match="give one of them"):
        run(["query", field, "x", "--scene", scene, "--view", "v0", "--cameras", tmp_path, "--out", tmp_path])
    with pytest.raises(CacheError, match="no view 'v7'"):
        run(["query", field, "x", "--scene", scene, "--view", "v7", "--out", tmp_path])
    with pytest.raises(CacheError, match="no mask teacher 'sam'"):
        run(["train", "--scene", scene, "--masks", "sam", "--out", tmp_path / "a", *SETTINGS])
    cache = SceneCache.open(scene)
    entry = SceneEntry("toy", "room", cache.fingerprint, cache)
    with pytest.raises(CacheError, match="field export"):
        give_features([entry], {"text": tmp_path / "nowhere"})
    with pytest.raises(ConfigError, match="no scene has a dense teacher 'sam'"):
        give_features([entry], {"sam": tmp_path})
    write_gaussian_features(tmp_path / "toy" / "room.safetensors", np.zeros((300, 64)), cache="other", standardiser="x")
    with pytest.raises(CacheError, match="belongs to another cache"):
        give_features([entry], {"text": tmp_path})
    with pytest.raises(ConfigError, match="expected TEACHER=FOLDER"):
        parse_gaussian_features(["text"])
    assert parse_gaussian_features(["text=a/b"]) == {"text": Path("a/b")}


def test_file_names_are_distinct() -> None:
    assert file_names(["A red mug!", "a red mug", "***"]) == ["a-red-mug", "a-red-mug~2", "query"]
