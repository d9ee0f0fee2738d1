"""A store in a bucket, against a real S3 server: the same scenes as in a folder, published in one step, checked as
strictly.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from chorus_common.cache import (
    SCHEMA_VERSION,
    SceneCache,
    published_bytes,
    published_scenes,
    sweep_orphans,
    unpublish,
    verify_store,
)
from chorus_common.cache.files import OBJECTS, open_files, uploads
from chorus_common.cameras import CameraSet
from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.manifest import Manifest
from chorus_common.runtime.bucket import BucketError, BucketPath
from chorus_common.runtime.errors import CacheError, ConfigError
from chorus_common.runtime.store_path import parse_store_path
from stage1_render_teachers import scene_task
from stage1_render_teachers.attempt import Stopwatch
from stage1_render_teachers.commands.copy import copy_command, copy_standardisers
from stage1_render_teachers.outcomes import SceneOutcome, read_outcomes
from stage1_render_teachers.run import run_stage1
from stage1_render_teachers.scene_task import publish_scene
from stage1_render_teachers.settings import RunConfig
from stage1_render_teachers.status import store_status
from stage1_render_teachers.store import prepare_store
from tests.chorus_common.cache_example import make_example, write_example
from tests.chorus_common.test_cache_damage import DAMAGES, exact_or_error, snapshot
from tests.stage1.s3_server import running_bucket
from tests.stage1.small_rooms import CONFIG, tree_digest, write_rooms

SMALL = CONFIG.model_copy(update={"teachers": ("embedded:dense",)})


@pytest.fixture(scope="module")
def bucket() -> Iterator[BucketPath]:
    with running_bucket() as place:
        yield place


def digests(scene: BucketPath) -> dict[str, str]:
    files = open_files(scene)
    return {name: hashlib.sha256(files.read(name)).hexdigest() for name in files.sizes()}


def test_a_run_into_a_bucket_gives_the_bytes_of_a_run_into_a_folder(bucket: BucketPath, tmp_path: Path) -> None:
    rows = list(Manifest.read(write_rooms(tmp_path / "rooms", 2)))
    store = bucket / "run"
    assert run_stage1(rows, store, SMALL, RunConfig()).counts == {"done": 2}
    assert run_stage1(rows, tmp_path / "folder", SMALL, RunConfig()).counts == {"done": 2}
    scenes = published_scenes(store)
    assert [str(path) for path in scenes] == [f"s3://caches/run/tiny/scene0{i}.zarr" for i in (0, 1)]
    for path in scenes:
        assert isinstance(path, BucketPath)
        folder = tmp_path / "folder" / "tiny" / path.name
        assert digests(path) == tree_digest(folder)
        assert published_bytes(path) == published_bytes(folder)
        assert verify_store(path) == []
    assert all(uploads(store / "tiny").values()), "nothing but published scenes"
    standardiser = "embedded-dense.safetensors"
    there = PhiSStandardiser.load(store / "standardisers" / standardiser)
    assert there.fingerprint == PhiSStandardiser.load(tmp_path / "folder" / "standardisers" / standardiser).fingerprint
    assert {outcome.status for outcome in read_outcomes(store).values()} == {"done"}
    # again: nothing is done twice; status and overwrite work as in a folder
    assert run_stage1(rows, store, SMALL, RunConfig()).counts == {"skipped": 2}
    status = store_status(rows, store)
    assert (status.done, status.pending, status.bytes) == (2, 0, sum(map(published_bytes, scenes)))
    other = SMALL.model_copy(update={"bits": 8})
    assert "--overwrite" in run_stage1(rows[:1], store, other, RunConfig()).failures["tiny/scene00"]
    assert run_stage1(rows[:1], store, other, RunConfig(overwrite=True)).counts == {"done": 1}
    assert SceneCache.open(scenes[0]).dense_teachers["embedded-dense"].bits == 8
    assert len(uploads(store / "tiny")) == 2


def test_reading_is_exact_and_every_damage_is_noticed(bucket: BucketPath, tmp_path: Path) -> None:
    example, path, folder = make_example(n=60, views=3), bucket / "damage" / "room_0.zarr", tmp_path / "room_0.zarr"
    assert write_example(path, example)
    write_example(folder, example)
    truth = snapshot(SceneCache.open(folder))
    assert exact_or_error(path, truth)
    rng = np.random.default_rng(0)
    objects = next(iter(uploads(bucket / "damage")))
    names = sorted(objects.files())
    for case in range(2 * len(DAMAGES)):
        # the first half before the scene is opened, the second half after
        name, damage = names[int(rng.integers(len(names)))], DAMAGES[case % len(DAMAGES)]
        cache = SceneCache.open(path)
        before = (objects / name).read_bytes()
        local = tmp_path / "object"
        local.write_bytes(before)
        damage(local, rng)
        if local.exists():
            (objects / name).write_bytes(local.read_bytes())
        else:
            (objects / name).unlink()
        if case < len(DAMAGES) or "/c/" not in name:
            assert not exact_or_error(path, truth), f"{damage.__name__} of {name} went unnoticed"
        else:
            with pytest.raises(CacheError, match=r"room_0\.zarr"):
                snapshot(cache)
        (objects / name).write_bytes(before)
    assert exact_or_error(path, truth)
    mark = path.read_bytes()
    newer = mark.replace(b": %d" % SCHEMA_VERSION, b": %d" % (SCHEMA_VERSION + 1))
    for broken in (b"", b"{}", mark[:-1], mark.replace(b"room_0", b"room_1"), newer, b"\xff"):
        path.write_bytes(broken)
        assert not exact_or_error(path, truth)
        assert verify_store(path)
    path.write_bytes(mark)
    assert exact_or_error(path, truth)


def test_of_many_writers_one_publishes(bucket: BucketPath) -> None:
    folder = bucket / "race"
    examples = [make_example(seed, n=40, views=2) for seed in range(3)]
    with ThreadPoolExecutor(3) as threads:
        won = list(threads.map(lambda example: write_example(folder / "room_0.zarr", example), examples))
    assert sorted(won) == [False, False, True]
    winner = examples[won.index(True)]
    found = SceneCache.open(folder / "room_0.zarr", check="full").scene()
    np.testing.assert_array_equal(found.means, winner.scene.means[winner.index.order])
    assert list(uploads(folder).values()) == [True]


def test_an_upload_that_was_cut_off_is_no_scene_and_is_swept(bucket: BucketPath) -> None:
    folder = bucket / "cut"
    write_example(folder / "room_0.zarr", make_example(n=40, views=2))
    half = folder / OBJECTS / "room_1~0123"
    (half / "zarr.json").write_bytes(b"{}")
    assert [path.name for path in published_scenes(bucket) if path.parent.name == "cut"] == ["room_0.zarr"]
    with pytest.raises(CacheError, match="no such store"):
        SceneCache.open(folder / "room_1.zarr")
    now = time.time()
    assert sweep_orphans(folder, older_than=now) == [], "it may still be going on"
    assert sweep_orphans(folder, older_than=now + 60, upload_patience=0) == [half]
    assert verify_store(folder / "room_0.zarr") == []
    unpublish(folder / "room_0.zarr")
    assert not folder.files()


def test_what_passes_is_tried_again(bucket: BucketPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(Manifest.read(write_rooms(tmp_path / "rooms", 2)))
    tries: list[str] = []

    def hiccup(job: scene_task.SceneJob, own: CameraSet | None, watch: Stopwatch) -> SceneOutcome:
        tries.append(job.row.scene_id)
        if tries.count("scene00") == 1 and job.row.scene_id == "scene00":
            raise BucketError("s3://caches: the bucket does not answer as it should (503 Slow Down)")
        return publish_scene(job, own, watch)

    monkeypatch.setattr(scene_task, "publish_scene", hiccup)
    assert run_stage1(rows, tmp_path / "s", SMALL, RunConfig()).counts == {"done": 2}
    assert tries == ["scene00", "scene01", "scene00"]
    tries.clear()
    summary = run_stage1([replace(rows[0], scene_id="scene00")], tmp_path / "t", SMALL, RunConfig(retries=0))
    assert "503 Slow Down" in summary.failures["tiny/scene00"]


def test_a_server_that_is_away_says_nothing_about_a_scene(
    bucket: BucketPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --overwrite a damaged scene is removed; one that cannot be asked for must not be."""
    rows = list(Manifest.read(write_rooms(tmp_path / "rooms", 1)))
    assert run_stage1(rows, bucket / "away", SMALL, RunConfig()).counts == {"done": 1}

    def away(path: BucketPath, start: int = 0, end: int | None = None) -> bytes:
        if ".zarr" in path.key or OBJECTS in path.key:
            raise BucketError(f"{path}: the bucket does not answer as it should")
        return real(path, start, end)

    real = BucketPath.read_bytes
    with monkeypatch.context() as patch:
        patch.setattr(BucketPath, "read_bytes", away)
        summary = run_stage1(rows, bucket / "away", SMALL, RunConfig(overwrite=True))
    assert "does not answer" in summary.failures["tiny/scene00"]
    assert run_stage1(rows, bucket / "away", SMALL, RunConfig()).counts == {"skipped": 1}


def test_addresses(bucket: BucketPath) -> None:
    assert parse_store_path("s3://b/x//y/") == BucketPath("b", "x/y")
    assert str(BucketPath("b", "x") / "y") == "s3://b/x/y"
    assert parse_store_path("a/b") == Path("a/b")
    for bad in ("s3://", "s3:///x", "s3://b/../c", "ftp://b/c"):
        with pytest.raises(ConfigError, match="s3://"):
            parse_store_path(bad)
    prepare_store(bucket / "fresh")
    assert not (bucket / "fresh").exists()
    with pytest.raises(BucketError, match="there is no such bucket"):
        prepare_store(BucketPath("no-such-bucket", "x"))


def test_scenes_are_copied_down_and_up(bucket: BucketPath, tmp_path: Path) -> None:
    up, down, again = bucket / "copy", tmp_path / "down", bucket / "again"
    write_example(up / "rooms" / "room_0.zarr", make_example(n=40, views=2))
    write_example(up / "rooms" / "room_1.zarr", make_example(1, n=40, views=2))
    (up / "standardisers" / "clip.safetensors").write_bytes(b"standardiser")
    for source, target in ((up, down), (down, again)):
        result = CliRunner().invoke(copy_command, ["--store", str(source), "--to", str(target)], standalone_mode=False)
        assert result.stdout.startswith("2 scenes copied"), result.exception
        assert (target / "standardisers" / "clip.safetensors").read_bytes() == b"standardiser"
        for name in ("room_0.zarr", "room_1.zarr"):
            assert verify_store(target / "rooms" / name) == []
    for name in ("room_0.zarr", "room_1.zarr"):
        assert digests(up / "rooms" / name) == tree_digest(down / "rooms" / name) == digests(again / "rooms" / name)
    # what is there stays; what is damaged is not handed on; another standardiser is refused
    unpublish(again / "rooms" / "room_0.zarr")
    (down / "rooms" / "room_0.zarr" / "zarr.json").write_text("{}")
    result = CliRunner().invoke(
        copy_command, ["--store", str(down), "--to", str(again), "--json"], standalone_mode=False
    )
    assert result.return_value == 1
    assert '"already_there": 1' in result.stdout
    assert "zarr.json is damaged" in result.stdout
    (down / "standardisers" / "clip.safetensors").write_bytes(b"other")
    with pytest.raises(CacheError, match="another standardiser"):
        copy_standardisers(down, again)
