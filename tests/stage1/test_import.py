"""chorus-stage1 import: caches from features that others lifted."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from chorus_common.cache import SceneCache, published_scenes
from chorus_common.cache.names import UNRECORDED
from chorus_common.features.quantise import Quantiser
from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.manifest import Manifest
from chorus_common.runtime.errors import ConfigError, SceneError
from chorus_common.scene_io import read_scene
from stage1_render_teachers.exchange import import_scene as task
from stage1_render_teachers.exchange.feature_files import open_features
from stage1_render_teachers.exchange.import_run import run_import
from stage1_render_teachers.exchange.settings import ImportCalibration, ImportConfig
from stage1_render_teachers.exchange.teacher_options import parse_teachers, store_names
from stage1_render_teachers.run import RunSummary
from stage1_render_teachers.settings import RunConfig
from tests.stage1.release_folders import CHANNELS, index_release, release_features, write_release
from tests.stage1.small_rooms import tree_digest

CONFIG = ImportConfig(calibration=ImportCalibration(scenes=2, rows=200), bits=8)


def run(manifest: Path, store: Path, *, config: ImportConfig = CONFIG, workers: int = 0, **specs: str) -> RunSummary:
    return run_import(list(Manifest.read(manifest)), store, config, RunConfig(workers=workers), specs)


def caches(store: Path) -> dict[str, str]:
    """Digests of what an import leaves, without the record of the attempt."""
    return {name: digest for name, digest in tree_digest(store).items() if not name.startswith("outcomes/")}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("release"), 3)


@pytest.fixture(scope="module")
def store(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imported") / "store"
    summary = run(release, path)
    assert summary.counts == {"done": 3}
    return path


@pytest.mark.parametrize("stem", ["lang", "dino"])
def test_every_gaussian_has_its_own_vector(release: Path, store: Path, stem: str) -> None:
    name = f"imported-{stem}"
    standardiser = PhiSStandardiser.load(store / "standardisers" / f"{name}.safetensors")
    for i in range(3):
        cache = SceneCache.open(store / "rel" / f"scan{i:02d}.zarr", check="full")
        source = cache.scene().source_ids
        values, known = cache.lifted_features(name)
        vectors, rows = release_features(i, stem, 400)
        expected = {int(row): vector for row, vector in zip(rows, vectors)}
        assert set(source[known].tolist()) == set(expected)
        for row in np.flatnonzero(known)[::37]:  # the slow twin: one vector at a time
            exact = standardiser.forward(expected[int(source[row])][None].astype(np.float32))
            quantiser = Quantiser(8)
            np.testing.assert_allclose(
                values[row], quantiser.decode(quantiser.encode(exact), CHANNELS[stem])[0], atol=2e-2
            )
        own = standardiser.inverse(values[known])
        truth = np.stack([expected[int(i)] for i in source[known]]).astype(np.float32)
        cosine = (own * truth).sum(1) / np.linalg.norm(own, axis=1) / np.linalg.norm(truth, axis=1)
        assert cosine.min() > 0.999


def test_a_cache_says_where_it_comes_from(release: Path, store: Path) -> None:
    cache = SceneCache.open(store / "rel" / "scan00.zarr")
    assert cache.n_views == 0
    teacher = cache.dense_teachers["imported-lang"]
    assert (teacher.spec, teacher.fingerprint, teacher.text_aligned) == ("imported:lang", UNRECORDED, False)
    weight, n_views = cache.visibility()
    seen = set(release_features(0, "lang", 400)[1].tolist()) | set(release_features(0, "dino", 400)[1].tolist())
    assert set(cache.scene().source_ids[weight == 1].tolist()) == seen
    assert not n_views.any()
    assert set(np.unique(weight)) <= {0, 1}
    np.testing.assert_array_equal(
        cache.scene().means, read_scene(release.parent / "scan00").means[cache.scene().source_ids]
    )
    assert cache.attributes.measures["imported-lang/lifted_cosine"] > 0.999


def test_the_bytes_do_not_depend_on_workers_and_what_is_done_is_left_alone(
    release: Path, store: Path, tmp_path: Path
) -> None:
    assert run(release, tmp_path / "two", workers=2).counts == {"done": 3}
    assert caches(tmp_path / "two") == caches(store)
    before = {path: path.stat().st_mtime_ns for path in (store / "rel").rglob("*")}
    assert run(release, store).counts == {"skipped": 3}
    assert {path: path.stat().st_mtime_ns for path in (store / "rel").rglob("*")} == before


def test_a_killed_import_goes_on_to_the_same_bytes(release: Path, store: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "stage1_render_teachers.cli", "import", "--manifest", str(release)]
    words += [
        "--store",
        str(tmp_path / "s"),
        "--set=bits=8",
        "--set=calibration.scenes=2",
        "--set=calibration.rows=200",
    ]
    child = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not published_scenes(tmp_path / "s") and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert len(published_scenes(tmp_path / "s")) >= 1
    summary = run(release, tmp_path / "s")
    assert summary.counts.get("skipped", 0) >= 1
    assert caches(tmp_path / "s") == caches(store)
    assert not list((tmp_path / "s").rglob(".tmp-*"))


def test_features_are_read_a_block_at_a_time(release: Path, store: Path, tmp_path: Path) -> None:
    asked = []
    table = task.FeatureTable

    class Watched(table):  # type: ignore[misc, valid-type]
        def read(self, chosen: np.ndarray) -> np.ndarray:
            asked.append(len(chosen))
            return super().read(chosen)

    def opened(*where: object) -> task.FeatureTable:
        found = open_features(*where)  # type: ignore[arg-type]
        return Watched(found.rows, found.path, found.values, found.places)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "open_features", opened)
        patch.setattr(task, "BLOCK", 64)
        run(release, tmp_path / "s")
    assert max(asked) == 64
    values = [
        SceneCache.open(root / "rel" / "scan01.zarr").lifted_features("imported-lang")
        for root in (tmp_path / "s", store)
    ]
    np.testing.assert_array_equal(values[0][1], values[1][1])
    np.testing.assert_allclose(values[0][0], values[1][0], atol=1e-5)


def spoil_index(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    path = folder / "lang_feat_index.npy"
    np.save(path, change(np.load(path)))


def put(array: np.ndarray, place: object, value: object) -> np.ndarray:
    array = array.copy()
    array[place] = value  # type: ignore[index]
    return array


def cut(folder: Path) -> None:
    path = folder / "lang_feat.npy"
    path.write_bytes(path.read_bytes()[:-100])


def features(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    path = folder / "lang_feat.npy"
    np.save(path, change(np.load(path)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: spoil_index(f, lambda i: put(i, 3, 400)), r"lang_feat_index.npy: entry 3 is 400, the scene has 400"),
        (lambda f: spoil_index(f, lambda i: put(i, 5, -1)), r"entry 5 is -1"),
        (lambda f: spoil_index(f, lambda i: put(i, 5, i[6])), r"names row \d+ twice"),
        (lambda f: spoil_index(f, lambda i: i[:-1]), r"has 319 entries for 320 rows"),
        (lambda f: spoil_index(f, lambda i: i.astype(np.float32)), r"expected integers \[K\]"),
        (lambda f: features(f, lambda v: put(v, (7, 2), np.nan)), r"lang_feat.npy: row 7 is not finite"),
        (lambda f: features(f, lambda v: put(v, (9, 0), np.inf)), r"row 9 is not finite \(f16 ends at 65504\)"),
        (lambda f: features(f, lambda v: v[:, :20]), r"has 20 channels, the store's teacher 'imported-lang' has 24"),
        (lambda f: features(f, lambda v: v.astype(np.int16)), r"expected floats \[K, C\]"),
        (lambda f: features(f, lambda v: v[:0]), r"entries for 0 rows"),
        (cut, r"lang_feat.npy: array declares .* truncated\?"),
        (lambda f: (f / "lang_feat_index.npy").unlink(), r"has 320 rows and the scene 400 Gaussians"),
        (lambda f: (f / "lang_feat.npy").unlink(), r"lang_feat.npy: no such file"),
        (lambda f: (f / "exchange.json").write_text("{"), r"exchange.json: not a document"),
    ],
)  # fmt: skip
def test_a_bad_scene_fails_alone_with_one_line(
    store: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    manifest = write_release(tmp_path / "release", 2)
    shutil.copytree(store / "standardisers", tmp_path / "s" / "standardisers")
    spoil(tmp_path / "release" / "scan01")
    index_release(tmp_path / "release")
    summary = run(manifest, tmp_path / "s", lang="", dino="")
    assert summary.counts == {"done": 1, "failed": 1}
    (line,) = summary.failures.values()
    assert "\n" not in line
    assert re.search(message, line), line
    assert [path.stem for path in published_scenes(tmp_path / "s")] == ["scan00"]


def test_features_of_all_rows_with_a_mask_or_zeros(tmp_path: Path) -> None:
    write_release(tmp_path, 2, stems=())
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 8)).astype(np.float16)
    values[::3] = 0
    for i in range(2):
        np.save(tmp_path / f"scan{i:02d}" / "lang_feat.npy", values)
    mask = (np.arange(400) % 5 == 0).astype(np.int64)
    np.save(tmp_path / "scan00" / "valid_feat_mask.npy", mask)
    (tmp_path / "scan01" / "valid_feat_mask.npy").unlink()
    run(index_release(tmp_path), tmp_path / "s")
    for i, expected in enumerate((mask > 0, (values != 0).any(1))):
        cache = SceneCache.open(tmp_path / "s" / "rel" / f"scan{i:02d}.zarr")
        known = cache.lifted_features("imported-lang")[1]
        assert set(cache.scene().source_ids[known].tolist()) == set(np.flatnonzero(expected).tolist())
    np.save(tmp_path / "scan00" / "valid_feat_mask.npy", mask[:-1])
    with pytest.raises(SceneError, match=r"expected truth values \[400\]"):
        open_features(tmp_path / "scan00", "lang", 400)


def test_a_scene_takes_what_lies_beside_it(tmp_path: Path) -> None:
    manifest = write_release(tmp_path, 3)
    (tmp_path / "scan02" / "dino_feat.npy").unlink()
    for path in (tmp_path / "scan01").glob("*_feat*.npy"):
        path.unlink()
    index_release(tmp_path)
    summary = run(manifest, tmp_path / "s")
    assert summary.counts == {"done": 2, "failed": 1}
    assert "has no features beside it" in summary.failures["rel/scan01"]
    assert tuple(SceneCache.open(tmp_path / "s" / "rel" / "scan02.zarr").dense_teachers) == ("imported-lang",)


def test_a_named_teacher_answers_to_its_text_side(release: Path, tmp_path: Path) -> None:
    run(release, tmp_path / "s", lang="open_clip:ViT-B-32:laion2b_s34b_b79k")
    (teacher,) = SceneCache.open(tmp_path / "s" / "rel" / "scan00.zarr").dense_teachers.values()
    assert teacher.text_aligned
    assert teacher.spec == "open_clip:ViT-B-32:laion2b_s34b_b79k"
    summary = run(release, tmp_path / "s", dino="")
    assert summary.counts == {"failed": 3}
    assert "was published with other settings" in summary.failures["rel/scan00"]


def test_imports_that_cannot_be_meant_are_refused(release: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none of 3 scenes has pe_feat.npy"):
        run(release, tmp_path / "s", pe="")
    with pytest.raises(ConfigError, match="two kinds of features are of one teacher"):
        run(release, tmp_path / "s", lang="timm:a", dino="timm:a")
    with pytest.raises(ConfigError, match=r"none of 1 scenes has <name>_feat.npy"):
        run(write_release(tmp_path / "bare", 1, stems=()), tmp_path / "s")
    for option in ("", "=x", "a/b=x", "lang="):
        with pytest.raises(ConfigError, match="expected NAME=TEACHER"):
            parse_teachers([option], required=False)
    with pytest.raises(ConfigError, match="given twice"):
        parse_teachers(["lang=a", "lang=b"], required=False)
    with pytest.raises(ConfigError, match="say which teacher"):
        parse_teachers(["lang"], required=True)
    assert store_names({"lang": "file:a", "dino": "timm:b", "pe": ""}, ["dino=d2"]) == {"lang": "lang", "dino": "d2"}
    for options, line in (
        (["lang"], "expected NAME=TEACHER"), (["lang=a b"], "expected NAME=TEACHER"),
        (["pe=x"], "--teachers pe=SPEC is not given"), (["lang=a", "lang=b"], "given twice"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=line):
            store_names({"lang": "file:a"}, options)


def test_a_teacher_may_be_given_a_name_of_its_own(release: Path, tmp_path: Path) -> None:
    """As `run --teachers lang=SPEC` calls it, so that both kinds of scenes have one teacher."""
    spec = "open_clip:ViT-B-16-SigLIP2:webli"
    run(release, tmp_path / "plain", lang=spec)
    rows = list(Manifest.read(release))
    run_import(rows, tmp_path / "named", CONFIG, RunConfig(), {"lang": spec}, store_names({"lang": spec}, []))
    plain, named = (SceneCache.open(next(iter(published_scenes(tmp_path / n)))) for n in ("plain", "named"))
    assert (tmp_path / "named" / "standardisers" / "lang.safetensors").is_file()
    assert list(named.dense_teachers) == ["lang"]
    assert named.dense_teachers["lang"] == next(iter(plain.dense_teachers.values()))
    np.testing.assert_array_equal(
        named.lifted_features("lang")[0], plain.lifted_features(next(iter(plain.dense_teachers)))[0]
    )
