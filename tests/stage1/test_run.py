"""Runs over many scenes: resumable, deterministic, and deaf to poison."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chorus_common.cache import SceneCache, verify_store
from chorus_common.manifest import Manifest
from chorus_common.runtime.errors import CacheError, ChorusError, ConfigError, ManifestError
from stage1_render_teachers.outcomes import read_outcomes
from stage1_render_teachers.rows import parse_shard, select_rows, shard_rows
from stage1_render_teachers.run import run_stage1
from stage1_render_teachers.settings import RunConfig
from tests.stage1.small_rooms import CONFIG, tree_digest, write_rooms

HERE = RunConfig()


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rooms(tmp_path_factory.mktemp("rooms"), 4)


@pytest.fixture(scope="module")
def uninterrupted(rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store made in one go, in one process."""
    store = tmp_path_factory.mktemp("whole") / "store"
    summary = run_stage1(list(Manifest.read(rooms)), store, CONFIG, HERE)
    assert summary.counts == {"done": 4}
    return store


def published(store: Path) -> dict[str, str]:
    return tree_digest(store / "tiny")


def test_every_scene_is_published_whole(rooms: Path, uninterrupted: Path) -> None:
    for row in Manifest.read(rooms):
        path = uninterrupted / "tiny" / f"{row.scene_id}.zarr"
        assert verify_store(path) == []
        cache = SceneCache.open(path, check="full")
        assert len(cache.scene()) == row.n_gaussians
        assert cache.lifting().n_views == len(cache.cameras()) == 5
        assert cache.rgb().shape == (5, 48, 64, 3)
        assert cache.depth().shape == (5, 48, 64)
        assert set(cache.dense_teachers) == {"embedded-dense"}
        assert set(cache.mask_teachers) == {"embedded-masks"}
    outcomes = read_outcomes(uninterrupted)
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
    for outcome in outcomes.values():
        assert outcome.bytes > 0
        assert outcome.n_views == 5
        assert 0 < outcome.coverage <= 1
        assert {"read", "render", "embedded-dense", "embedded-masks", "index", "publish", "total"} <= set(
            outcome.seconds
        )
        assert 0.9 < outcome.errors["embedded-dense"]["lifted_cosine"] <= 1


def test_a_second_run_does_nothing(rooms: Path, uninterrupted: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (uninterrupted / "tiny").rglob("*")}
    summary = run_stage1(list(Manifest.read(rooms)), uninterrupted, CONFIG, HERE)
    assert summary.counts == {"skipped": 4}
    assert {path: path.stat().st_mtime_ns for path in (uninterrupted / "tiny").rglob("*")} == before


def test_shards_and_orders_give_the_same_bytes(rooms: Path, uninterrupted: Path, tmp_path: Path) -> None:
    rows = list(Manifest.read(rooms))
    for index in (2, 0, 1):
        shard = shard_rows(rows[::-1], index, 3)
        assert run_stage1(shard, tmp_path / "s", CONFIG, HERE, calibration_rows=rows).failures == {}
    assert published(tmp_path / "s") == published(uninterrupted)
    assert tree_digest(tmp_path / "s" / "standardisers") == tree_digest(uninterrupted / "standardisers")


def test_workers_give_the_same_bytes(rooms: Path, uninterrupted: Path, tmp_path: Path) -> None:
    summary = run_stage1(list(Manifest.read(rooms)), tmp_path / "s", CONFIG, RunConfig(workers=2))
    assert summary.counts == {"done": 4}
    assert published(tmp_path / "s") == published(uninterrupted)
    assert tree_digest(tmp_path / "s" / "standardisers") == tree_digest(uninterrupted / "standardisers")


def test_threads_and_batches_of_other_settings_are_other_caches(rooms: Path, uninterrupted: Path) -> None:
    rows = list(Manifest.read(rooms))
    other = CONFIG.model_copy(update={"bits": 8})
    before = published(uninterrupted)
    summary = run_stage1(rows[:2], uninterrupted, other, HERE)
    assert summary.counts == {"failed": 2}
    assert all("--overwrite" in line and "other settings" in line for line in summary.failures.values())
    assert published(uninterrupted) == before


def test_overwrite_redoes_what_differs_and_only_that(rooms: Path, tmp_path: Path) -> None:
    rows = list(Manifest.read(rooms))[:2]
    run_stage1(rows, tmp_path, CONFIG, HERE)
    first = published(tmp_path)
    other = CONFIG.model_copy(update={"bits": 8})
    assert run_stage1(rows[:1], tmp_path, other, RunConfig(overwrite=True)).counts == {"done": 1}
    assert SceneCache.open(tmp_path / "tiny" / "scene00.zarr").dense_teachers["embedded-dense"].bits == 8
    assert run_stage1(rows, tmp_path, CONFIG, RunConfig(overwrite=True)).counts == {"done": 1, "skipped": 1}
    assert published(tmp_path) == first


def test_a_damaged_cache_is_not_trusted_and_can_be_redone(rooms: Path, tmp_path: Path) -> None:
    rows = list(Manifest.read(rooms))[:1]
    run_stage1(rows, tmp_path, CONFIG, HERE)
    first = published(tmp_path)
    victim = next(file for file in sorted((tmp_path / "tiny").rglob("c/*")) if file.is_file())
    victim.write_bytes(victim.read_bytes()[:-1])
    summary = run_stage1(rows, tmp_path, CONFIG, HERE)
    assert "--overwrite" in summary.failures["tiny/scene00"]
    assert run_stage1(rows, tmp_path, CONFIG, RunConfig(overwrite=True)).counts == {"done": 1}
    assert published(tmp_path) == first
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1  # of the right length: only a look at every byte finds it
    victim.write_bytes(data)
    assert run_stage1(rows, tmp_path, CONFIG, HERE).counts == {"skipped": 1}
    assert run_stage1(rows, tmp_path, CONFIG, RunConfig(overwrite=True)).counts == {"done": 1}
    assert published(tmp_path) == first


def test_edited_inputs_are_noticed(rooms: Path, uninterrupted: Path, tmp_path: Path) -> None:
    copy = tmp_path / "rooms"
    shutil.copytree(rooms.parent, copy)
    store = tmp_path / "s"
    shutil.copytree(uninterrupted, store)
    cameras = copy / "cameras" / "scene00" / "transforms.json"
    cameras.write_text(cameras.read_text().replace("v0", "w0"))
    rows = list(Manifest.read(copy / "manifest.parquet"))
    colour = np.load(copy / "scene01" / "color.npy")
    np.save(copy / "scene01" / "color.npy", colour[::-1].copy())
    shutil.rmtree(store / "tiny" / "scene01.zarr")
    summary = run_stage1(rows, store, CONFIG, HERE)
    assert summary.counts == {"failed": 2, "skipped": 2}
    assert "other settings, teachers or input files" in summary.failures["tiny/scene00"]
    assert "has changed since it was indexed" in summary.failures["tiny/scene01"]


def poison(rooms: Path, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A copy of the rooms in which all but one are broken, each in its own way, and what must be said of them."""
    copy = tmp_path / "rooms"
    shutil.copytree(rooms.parent, copy)
    shutil.rmtree(copy / "scene00")
    coordinates = np.load(copy / "scene01" / "coord.npy")
    coordinates[7] = np.nan
    np.save(copy / "scene01" / "coord.npy", coordinates)
    (copy / "cameras" / "scene02" / "transforms.json").write_text('{"frames": [')
    return copy / "manifest.parquet", {"scene00": "scene00", "scene01": "finite", "scene02": "transforms.json"}


def test_poisonous_scenes_fail_alone_with_one_line_each(rooms: Path, uninterrupted: Path, tmp_path: Path) -> None:
    manifest, expected = poison(rooms, tmp_path)
    store = tmp_path / "s"
    shutil.copytree(uninterrupted / "standardisers", store / "standardisers")
    summary = run_stage1(list(Manifest.read(manifest)), store, CONFIG, HERE)
    assert summary.counts == {"failed": 3, "done": 1}
    for scene, words in expected.items():
        line = summary.failures[f"tiny/{scene}"]
        assert words in line
        assert "\n" not in line
        assert len(line) < 400
    assert {key: outcome.error for key, outcome in read_outcomes(store).items() if outcome.error} == summary.failures
    sound = published(uninterrupted)
    assert published(store) == {name: digest for name, digest in sound.items() if name.startswith("scene03")}
    assert not list((store / "tiny").glob(".tmp-*"))


def test_a_run_can_be_told_to_give_up(rooms: Path, uninterrupted: Path, tmp_path: Path) -> None:
    manifest, _ = poison(rooms, tmp_path)
    store = tmp_path / "s"
    shutil.copytree(uninterrupted / "standardisers", store / "standardisers")
    summary = run_stage1(list(Manifest.read(manifest)), store, CONFIG, RunConfig(max_failures=2))
    assert summary.counts == {"failed": 2}
    assert summary.stopped_early


def test_cameras_that_see_nothing_are_a_failure_not_an_empty_cache(rooms: Path, tmp_path: Path) -> None:
    from chorus_common.camera_io import read_cameras, write_transforms_json

    row = next(iter(Manifest.read(rooms)))
    assert row.cameras_path is not None
    cameras = read_cameras(row.cameras_path)
    away = cameras.viewmats.copy()
    away[:, 2, 3] -= 100  # a hundred metres in front of what they look at
    write_transforms_json(replace(cameras, viewmats=away), tmp_path / "transforms.json")
    row = replace(row, cameras_path=tmp_path / "transforms.json")
    config = CONFIG.model_copy(update={"teachers": ("embedded:masks",)})
    summary = run_stage1([row], tmp_path / "s", config, HERE)
    assert "sees any Gaussian" in summary.failures["tiny/scene00"]


def test_a_full_disk_fails_the_scene_and_leaves_nothing(
    rooms: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chorus_common.cache import SceneCacheWriter

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    shutil.copytree(uninterrupted / "standardisers", tmp_path / "standardisers")
    monkeypatch.setattr(SceneCacheWriter, "put_lifting", full)
    summary = run_stage1(list(Manifest.read(rooms))[:2], tmp_path, CONFIG, HERE)
    assert summary.counts == {"failed": 2}
    assert all("disk full" in line for line in summary.failures.values())
    assert list((tmp_path / "tiny").iterdir()) == []


def test_missing_scenes_of_the_calibration_are_replaced(rooms: Path, tmp_path: Path) -> None:
    manifest, _ = poison(rooms, tmp_path)
    summary = run_stage1(list(Manifest.read(manifest)), tmp_path / "s", CONFIG, HERE)
    assert summary.counts == {"failed": 3, "done": 1}


def test_what_concerns_the_whole_run_is_refused_before_any_work(
    rooms: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    rows = list(Manifest.read(rooms))
    with pytest.raises(ConfigError, match="did you mean 'embedded:dense'"):
        run_stage1(rows, tmp_path / "a", CONFIG.model_copy(update={"teachers": ("embedded:dens",)}), HERE)
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="is a file; give a folder"):
        run_stage1(rows, tmp_path / "file", CONFIG, HERE)
    broken = tmp_path / "b" / "standardisers" / "embedded-dense.safetensors"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"half a standardiser")
    with pytest.raises(ChorusError, match=r"embedded-dense\.safetensors: damaged"):
        run_stage1(rows, tmp_path / "b", CONFIG, HERE)
    with pytest.raises(ManifestError, match="no scene of split val"):
        select_rows(Manifest.read(rooms), "val", None)


def test_a_teacher_other_than_the_calibrated_one_is_refused(
    rooms: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stage1_render_teachers.teachers.dense_classical import ClassicalDenseTeacher

    monkeypatch.setattr(ClassicalDenseTeacher, "fingerprint", "another")
    with pytest.raises(ConfigError, match="is not the one that"):
        run_stage1(list(Manifest.read(rooms)), uninterrupted, CONFIG, HERE)


def test_shards_are_disjoint_and_complete(rooms: Path) -> None:
    rows = list(Manifest.read(rooms))
    parts = [shard_rows(rows, *parse_shard(f"{i}/3")) for i in (1, 2, 3)]
    assert sorted(row.scene_id for part in parts for row in part) == [row.scene_id for row in rows]
    for bad in ("0/3", "4/3", "1", "a/b", "1/0", "-1/2", ""):
        with pytest.raises(ConfigError, match="expected i/n"):
            parse_shard(bad)


# --- kills -------------------------------------------------------------------------------------------------------


def start(manifest: Path, store: Path, *options: str) -> subprocess.Popen[bytes]:
    """`chorus-stage1 run` as a process group of its own."""
    settings = [f"--set={key}={value}" for key, value in (
        ("width", 64), ("height", 48), ("cell", 8), ("batch", 2), ("store_depth", "true"), ("error_sample", 64),
        ("calibration.scenes", 2), ("calibration.views", 2),
    )]  # fmt: skip
    teachers = [f"--teachers={spec}" for spec in CONFIG.teachers]
    program = (  # a test runner in the background may have the signal ignored, and its children with it
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from stage1_render_teachers.cli import main; main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, "run", f"--manifest={manifest}", f"--store={store}", *settings, *teachers,
        *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, env={**os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(process: subprocess.Popen[bytes]) -> int:
    _, errors = process.communicate(timeout=120)
    assert b"Traceback" not in errors, errors.decode()
    return process.returncode


def kill_again_and_again(manifest: Path, store: Path, expected: dict[str, str], kills: int, *options: str) -> None:
    rng = random.Random(7)
    tiny = store / "tiny"
    for _ in range(kills):
        process = start(manifest, store, *options)
        before = {path.name: path.stat().st_ino for path in tiny.glob("scene*.zarr")} if tiny.exists() else {}
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline and not list(tiny.glob(".tmp-*")):
            time.sleep(0.005)  # until it is at work on a scene
        time.sleep(rng.uniform(0, 0.25))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        after = {path.name: path.stat().st_ino for path in tiny.glob("scene*.zarr")}
        assert before.items() <= after.items(), "a published scene was made again"
        for name, digest in published(store).items():
            assert name.startswith(".tmp-") or expected[name] == digest, f"{name} is torn"
    assert finish(start(manifest, store, *options)) == 0
    assert published(store) == expected, "other bytes, or something left behind"


def test_sigkill_at_any_moment_leaves_the_same_bytes_in_the_end(
    rooms: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    kill_again_and_again(rooms, tmp_path / "s", published(uninterrupted), 3)


@pytest.mark.slow
def test_sigkill_of_a_run_with_workers(rooms: Path, uninterrupted: Path, tmp_path: Path) -> None:
    kill_again_and_again(rooms, tmp_path / "s", published(uninterrupted), 6, "--workers=2")


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(rooms: Path, uninterrupted: Path, tmp_path: Path) -> None:
    for options in ([], ["--workers=2"]):
        store = tmp_path / f"s{len(options)}"
        process = start(rooms, store, *options)
        while not list((store / "tiny").glob(".tmp-*")):
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert b"interrupted; run the same command again to go on" in errors
        assert b"Traceback" not in errors, errors.decode()
        assert finish(start(rooms, store, *options)) == 0
        assert published(store) == published(uninterrupted)


@pytest.mark.slow
def test_two_runs_on_one_store_at_once_agree(rooms: Path, uninterrupted: Path, tmp_path: Path) -> None:
    both = [start(rooms, tmp_path / "s") for _ in range(2)]
    assert [finish(process) for process in both] == [0, 0]
    assert published(tmp_path / "s") == published(uninterrupted)


def test_a_teacher_with_a_name_of_its_own(rooms: Path, tmp_path: Path) -> None:
    """NAME=SPEC changes what a teacher is called, and nothing that is stored of it."""
    rows, specs = list(Manifest.read(rooms))[:1], ("embedded:text", "embedded:dense", "embedded:masks")
    named = tuple(f"{name}={spec}" for name, spec in zip(("lang", "dino", "sam"), specs))
    stores = [tmp_path / "plain", tmp_path / "named"]
    for store, teachers in zip(stores, (specs, named)):
        run_stage1(rows, store, CONFIG.model_copy(update={"teachers": teachers}), HERE)
    plain, other = (SceneCache.open(store / "tiny" / f"{rows[0].scene_id}.zarr") for store in stores)
    for ours, theirs in (("lang", "embedded-text"), ("dino", "embedded-dense")):
        np.testing.assert_array_equal(other.features(ours), plain.features(theirs))
        assert other.dense_teachers[ours] == plain.dense_teachers[theirs]
        files = [
            (store / "standardisers" / f"{n}.safetensors").read_bytes() for store, n in zip(stores, (theirs, ours))
        ]
        assert files[0] == files[1]
    assert other.mask_teachers["sam"] == plain.mask_teachers["embedded-masks"]
    level = other.mask_teachers["sam"].levels[0]
    for a, b in zip(other.mask_embeddings("sam", level), plain.mask_embeddings("embedded-masks", level)):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="a teacher is named twice"):
        type(CONFIG)(teachers=("lang=embedded:text", "lang=embedded:dense"))
