"""chorus-stage1 export: folders of features per Gaussian from caches, and the way there and back."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from chorus_common.cache import SceneCache
from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.manifest import Manifest, ManifestRow, path_digest
from chorus_common.runtime.errors import CacheError
from chorus_common.scene_io import read_scene
from stage1_render_teachers import cli
from stage1_render_teachers.exchange.export_run import run_export
from stage1_render_teachers.exchange.import_run import run_import
from stage1_render_teachers.exchange.settings import ImportConfig
from stage1_render_teachers.run import run_stage1
from stage1_render_teachers.settings import RunConfig
from tests.stage1.release_folders import release_features, write_release
from tests.stage1.small_rooms import CONFIG, tree_digest, write_rooms


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(manifest, store) of two scenes that stage 1 made."""
    root = tmp_path_factory.mktemp("own")
    manifest = write_rooms(root / "rooms", 2)
    run_stage1(list(Manifest.read(manifest)), root / "store", CONFIG, RunConfig())
    return manifest, root / "store"


def exported_manifest(out: Path) -> list[ManifestRow]:
    return [
        ManifestRow("tiny", f.name, "train", "npy-folder", f, None, "", len(np.load(f / "coord.npy")), path_digest(f))
        for f in sorted((out / "tiny" / "train").iterdir())
    ]


def lifted(store: Path, scene: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The slow twin: (features [N, C] in the teacher's own space, known [N]) of an own cache, in file order."""
    cache = SceneCache.open(store / "tiny" / f"{scene}.zarr")
    standardiser = PhiSStandardiser.load(store / "standardisers" / f"{name}.safetensors")
    index, cells = cache.lifting(), cache.features(name).reshape(-1, standardiser.channels)
    out, known = np.zeros((len(index), standardiser.channels)), np.zeros(len(index), bool)
    for row, source in enumerate(cache.scene().source_ids):
        entries = slice(index.indptr[row], index.indptr[row + 1])
        if (weights := index.weights[entries].astype(np.float64)).sum() > 0:
            out[source] = standardiser.inverse((weights @ cells[index.columns[entries]])[None] / weights.sum())[0]
            known[source] = True
    return out, known


def test_an_own_cache_becomes_a_folder_in_the_order_of_the_file(own: tuple[Path, Path], tmp_path: Path) -> None:
    manifest, store = own
    summary = run_export(
        list(Manifest.read(manifest)), store, tmp_path, RunConfig(), {"dino": "embedded:dense"}, unit=False
    )
    assert summary.counts == {"done": 2}
    for row in Manifest.read(manifest):
        folder = tmp_path / "tiny" / "train" / row.scene_id
        values, known = lifted(store, row.scene_id, "embedded-dense")
        index = np.load(folder / "dino_feat_index.npy")
        assert index.dtype == np.int32
        np.testing.assert_array_equal(index, np.flatnonzero(known))
        np.testing.assert_array_equal(np.load(folder / "valid_feat_mask.npy"), known)
        found = np.load(folder / "dino_feat.npy")
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, values[known], rtol=2e-3, atol=2e-3)
        scene, source = read_scene(folder), read_scene(row.scene_path)
        np.testing.assert_allclose(scene.means, source.means, atol=1e-6)
        np.testing.assert_array_equal(scene.labels, source.labels)


def test_there_and_back(own: tuple[Path, Path], tmp_path: Path) -> None:
    manifest, store = own
    rows = list(Manifest.read(manifest))
    run_export(rows, store, tmp_path / "out", RunConfig(), {"dino": "embedded-dense"}, unit=False)
    origin = json.loads((tmp_path / "out" / "tiny" / "train" / "scene00" / "exchange.json").read_text())
    mine = SceneCache.open(store / "tiny" / "scene00.zarr").dense_teachers["embedded-dense"]
    assert origin["teachers"]["dino"] == {
        "spec": mine.spec, "fingerprint": mine.fingerprint, "text_aligned": False,
    }  # fmt: skip
    again = exported_manifest(tmp_path / "out")
    (tmp_path / "back" / "standardisers").mkdir(parents=True)
    for path in (store / "standardisers").iterdir():
        (tmp_path / "back" / "standardisers" / path.name).write_bytes(path.read_bytes())
    assert run_import(again, tmp_path / "back", ImportConfig(), RunConfig(), {}).counts == {"done": 2}
    cache = SceneCache.open(tmp_path / "back" / "tiny" / "scene00.zarr")
    teacher = cache.dense_teachers["embedded-dense"]
    assert (teacher.spec, teacher.fingerprint, teacher.standardiser) == (mine.spec, mine.fingerprint, mine.standardiser)
    values, known = cache.lifted_features("embedded-dense")
    truth, seen = lifted(store, "scene00", "embedded-dense")
    source = cache.scene().source_ids
    np.testing.assert_array_equal(known, seen[source])
    standardiser = PhiSStandardiser.load(store / "standardisers" / "embedded-dense.safetensors")
    exact = standardiser.forward(truth[source][known])
    cosine = (values[known] * exact).sum(1) / np.linalg.norm(values[known], axis=1) / np.linalg.norm(exact, axis=1)
    assert cosine.mean() > 0.985
    # and an imported cache is exported to the rows that it was imported from
    run_export(again, tmp_path / "back", tmp_path / "third", RunConfig(), {"dino": "embedded-dense"}, unit=False)
    for name in ("dino_feat_index.npy", "valid_feat_mask.npy", "coord.npy"):
        first, second = (
            (tmp_path / out / "tiny" / "train" / "scene00" / name).read_bytes() for out in ("out", "third")
        )
        assert first == second, name


def test_a_release_comes_back_with_its_rows_sorted(tmp_path: Path) -> None:
    manifest = write_release(tmp_path / "release", 1)
    rows = list(Manifest.read(manifest))
    run_import(rows, tmp_path / "s", ImportConfig(bits="fp16"), RunConfig(), {"lang": ""})
    run_export(rows, tmp_path / "s", tmp_path / "out", RunConfig(), {}, unit=True)  # under the name that it had
    values, index = release_features(0, "lang", 400)
    folder = tmp_path / "out" / "rel" / "train" / "scan00"
    along = np.argsort(index)
    np.testing.assert_array_equal(np.load(folder / "lang_feat_index.npy"), index[along])
    found = np.load(folder / "lang_feat.npy").astype(np.float32)
    np.testing.assert_allclose(found, values[along].astype(np.float32), atol=3e-3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-3)


def test_what_is_there_is_left_alone(own: tuple[Path, Path], tmp_path: Path) -> None:
    manifest, store = own
    rows = list(Manifest.read(manifest))
    run_export(rows, store, tmp_path / "a", RunConfig(), {}, unit=False)
    orphan = tmp_path / "a" / "tiny" / "train" / ".tmp-0123"
    orphan.mkdir()
    os.utime(orphan, (1, 1))
    assert run_export(rows, store, tmp_path / "a", RunConfig(), {}, unit=False).counts == {"skipped": 2}
    assert not orphan.exists()
    summary = run_export(rows, store, tmp_path / "a", RunConfig(), {}, unit=True)
    assert "holds something else" in summary.failures["tiny/scene00"]
    assert run_export(rows, store, tmp_path / "a", RunConfig(overwrite=True), {}, unit=True).counts == {"done": 2}


@pytest.mark.slow
def test_workers_change_no_byte(own: tuple[Path, Path], tmp_path: Path) -> None:
    manifest, store = own
    rows = list(Manifest.read(manifest))
    for workers in (0, 2):
        run_export(rows, store, tmp_path / str(workers), RunConfig(workers=workers), {}, unit=False)
    assert tree_digest(tmp_path / "0") == tree_digest(tmp_path / "2")


def test_what_cannot_be_exported_is_said_in_a_line(own: tuple[Path, Path], tmp_path: Path) -> None:
    manifest, store = own
    rows = list(Manifest.read(manifest))
    summary = run_export(rows, store, tmp_path, RunConfig(), {"x": "embedded-dens"}, unit=False)
    assert "has no dense teacher 'embedded-dens'; did you mean 'embedded-dense'?" in summary.failures["tiny/scene00"]
    assert not list(tmp_path.rglob("*.npy"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CacheError, match="holds none of the 2 scenes"):
        run_export(rows, tmp_path / "empty", tmp_path / "out", RunConfig(), {}, unit=False)


def test_the_commands_and_what_status_and_verify_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["chorus-stage1", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0), capsys.readouterr().out

    manifest = write_release(tmp_path / "release" / "train", 2)
    where = ["--manifest", manifest, "--store", tmp_path / "s"]
    code, out = call("import", *where, "--teachers", "lang=file:names.npz", "--shard", "1/2")
    assert code == 0
    assert out.startswith("1 done in ")
    assert json.loads(call("status", *where, "--json")[1])["pending"] == 1
    assert call("import", *where, "--teachers", "lang=file:names.npz")[0] == 0
    state = json.loads(call("status", *where, "--json")[1])
    assert (state["done"], state["failed"], state["coverage"]) == (2, {}, pytest.approx(0.8))
    assert state["errors"]["lang"]["lifted_cosine"] > 0.98
    assert call("verify", *where) == (0, "2 scenes checked, 0 damaged, 0 not published\n")
    code, out = call("export", *where, "--out", tmp_path / "out", "--json")
    assert (code, json.loads(out)["counts"]) == (0, {"done": 2})
    assert (tmp_path / "out" / "rel" / "train" / "scan01" / "lang_feat.npy").is_file()
    assert call("export", *where, "--out", tmp_path / "out", "--teachers", "lang")[0] == 2
    # the same without a manifest
    bare = ["--store", tmp_path / "bare"]
    folder = tmp_path / "release"
    text = ("--teachers", "lang=file:names.npz")
    code, out = call("import", folder, "--store", tmp_path / "renamed", *text, "--rename", "lang=words", "--json")
    assert code == 0
    assert (tmp_path / "renamed" / "standardisers" / "words.safetensors").is_file()
    assert call("import", folder, *bare, *text, "--rename", "dino=words")[0] == 2
    code, out = call("import", folder, *bare, "--teachers", "lang=file:names.npz", "--dataset", "rel", "--json")
    assert (code, json.loads(out)["counts"]) == (0, {"done": 2})
    assert tree_digest(tmp_path / "bare" / "rel") == tree_digest(tmp_path / "s" / "rel")
    code, out = call("export", *bare, "--out", tmp_path / "again", "--json")
    assert (code, json.loads(out)["counts"]) == (0, {"done": 2})
    assert tree_digest(tmp_path / "again" / "rel") == tree_digest(tmp_path / "out" / "rel" / "train")
    assert call("import", folder, *where)[0] == call("import", *bare)[0] == 2
    assert call("import", tmp_path / "s", *bare)[0] == call("export", *bare, "--out", folder, "--split", "x")[0] == 2
