"""Kills, races, full disks: a store is published whole or not at all."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from zarr.storage import LocalStore

from chorus_common.cache import SceneCache, SceneCacheWriter, publish, sweep_orphans, verify_store
from chorus_common.runtime.errors import CacheError
from tests.chorus_common.cache_example import fill, header, make_example, write_example


def _write_forever(folder: Path) -> None:
    example = make_example(n=60, views=3)
    for i in range(10_000):
        write_example(folder / f"scene_{i}.zarr", example)


def test_kill_at_random_moments_leaves_whole_stores_and_orphans_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    published = 0
    for kill in range(5):
        folder = tmp_path / str(kill)
        folder.mkdir()
        child = multiprocessing.get_context("fork").Process(target=_write_forever, args=(folder,))
        child.start()
        assert child.pid is not None
        deadline = time.monotonic() + 60
        while not list(folder.glob("scene_*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(float(rng.uniform(0, 0.3)))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        stores = sorted(folder.glob("scene_*.zarr"))
        published += len(stores)
        for store in stores:
            assert verify_store(store) == []
        others = [p for p in folder.iterdir() if p not in stores]
        assert len(others) <= 1
        assert all(p.name.startswith(".tmp-") for p in others)
        assert sweep_orphans(folder, older_than=time.time() + 1) == others
        assert sorted(folder.iterdir()) == stores
    assert published >= 5


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="teacher died"), SceneCacheWriter(tmp_path / "a.zarr", header()) as writer:
        fill(writer, make_example(n=60, views=3))
        raise RuntimeError("teacher died")
    assert list(tmp_path.iterdir()) == []
    with SceneCacheWriter(tmp_path / "a.zarr", header()) as writer:
        writer.put_cameras(make_example(n=60, views=3).cameras)
    assert list(tmp_path.iterdir()) == []


def test_the_second_writer_discards_its_own(tmp_path: Path) -> None:
    path = tmp_path / "room_0.zarr"
    first, second = make_example(0, n=60, views=3), make_example(1, n=60, views=3)
    with SceneCacheWriter(path, header()) as a, SceneCacheWriter(path, header()) as b:
        fill(a, first)
        fill(b, second)
        assert a.publish()
        assert not b.publish()
    assert [p.name for p in tmp_path.iterdir()] == ["room_0.zarr"]
    np.testing.assert_array_equal(SceneCache.open(path).scene().means, first.scene.means[first.index.order])


def _race(path: Path, seed: int, barrier, queue) -> None:  # type: ignore[no-untyped-def]
    example = make_example(seed, n=60, views=3)
    with SceneCacheWriter(path, header()) as writer:
        fill(writer, example)
        barrier.wait(60)
        queue.put((seed, writer.publish()))


def test_racing_processes_publish_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(3), context.Queue()
    path = tmp_path / "room_0.zarr"
    children = [context.Process(target=_race, args=(path, seed, barrier, queue)) for seed in range(3)]
    for child in children:
        child.start()
    outcomes = dict(queue.get(timeout=60) for _ in children)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    (winner,) = [seed for seed, won in outcomes.items() if won]
    assert [p.name for p in tmp_path.iterdir()] == ["room_0.zarr"]
    truth = make_example(winner, n=60, views=3)
    np.testing.assert_array_equal(
        SceneCache.open(path, check="full").scene().means, truth.scene.means[truth.index.order]
    )


@pytest.mark.parametrize("allowed", [0, 3, 20, 60])
def test_full_disk_publishes_nothing_and_removes_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    """The disk is full after `allowed` files."""
    count, real = 0, LocalStore._set

    async def limited(self, key, value, exclusive=False):  # type: ignore[no-untyped-def]
        nonlocal count
        count += 1
        if count > allowed:
            raise OSError(errno.ENOSPC, "No space left on device")
        return await real(self, key, value, exclusive)

    monkeypatch.setattr(LocalStore, "_set", limited)
    with pytest.raises(CacheError, match=r"scene room_0: disk full while writing .*room_0\.zarr; free some space"):
        write_example(tmp_path / "room_0.zarr", make_example(n=60, views=3))
    assert list(tmp_path.iterdir()) == []


def _write_with_limit(path: Path, limit: int, queue) -> None:  # type: ignore[no-untyped-def]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails with EFBIG
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        write_example(path, make_example(n=2000, views=3))
        queue.put("published")
    except CacheError as error:
        queue.put(str(error))


def test_a_write_that_the_system_refuses(tmp_path: Path) -> None:
    """A real refusal by the operating system, in a child: no file may grow beyond 8 kB."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_write_with_limit, args=(tmp_path / "room_0.zarr", 8192, queue))
    child.start()
    assert "disk full" in queue.get(timeout=60)
    child.join(60)
    assert list(tmp_path.iterdir()) == []


def test_sweep_spares_the_young_and_the_living(tmp_path: Path) -> None:
    for name in (".tmp-dead", ".tmp-young", "scene.zarr"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "zarr.json").write_text("{}")
    (tmp_path / ".tmp-note.txt").write_text("a file is not ours to remove")
    for name in (".tmp-dead", "scene.zarr"):
        for path in (tmp_path / name / "zarr.json", tmp_path / name):
            os.utime(path, (1000, 1000))
    with SceneCacheWriter(tmp_path / "live.zarr", header()) as writer:
        living = writer._root
        os.utime(living, (1000, 1000))
        assert sweep_orphans(tmp_path, older_than=2000) == [tmp_path / ".tmp-dead"]
        assert living.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".tmp-note.txt", ".tmp-young", "scene.zarr"]


def test_every_file_and_folder_is_durable_before_the_store_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, synced = tmp_path / "scene.zarr", []

    def note(path: Path) -> None:
        assert store.exists() == (path == tmp_path)  # the folder around it comes last, after the rename
        synced.append(path)

    monkeypatch.setattr(publish, "fsync_directory", note)
    write_example(store, make_example(n=60, views=3))
    there = sorted(p.relative_to(store) for p in store.rglob("*"))
    assert len(there) > 50
    root = next(p for p in synced if p.name.startswith(".tmp-") and p.parent == tmp_path)
    assert sorted(p.relative_to(root) for p in synced if p not in (root, tmp_path)) == there


def test_a_disk_that_cannot_sync_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        if path.name == "zarr.json":
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(publish, "fsync_directory", broken)
    with pytest.raises((OSError, CacheError)):
        write_example(tmp_path / "scene.zarr", make_example(n=60, views=3))
    assert not (tmp_path / "scene.zarr").exists()
