"""Two runs at once on one store, and a disk that is full."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chorus_common.manifest import Manifest
from stage1_render_teachers.run import run_stage1
from stage1_render_teachers.settings import RunConfig
from tests.chaos.test_chaos_kills import SETTINGS
from tests.stage1.small_rooms import CONFIG, tree_digest, write_rooms

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rooms(tmp_path_factory.mktemp("rooms"), 8)


@pytest.fixture(scope="module")
def calm(rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("calm")
    run_stage1(list(Manifest.read(rooms)), store, CONFIG, RunConfig())
    return store


def test_two_writers_on_every_scene(rooms: Path, calm: Path, tmp_path: Path) -> None:
    """Two programs with the same work: each scene is published once, whole, and whoever comes second says so."""
    rng = random.Random(3)
    for attempt in range(4):
        store = tmp_path / str(attempt)
        program = "from stage1_render_teachers.cli import main; main()"
        command = [sys.executable, "-c", program, "run", f"--manifest={rooms}", f"--store={store}", "--json", *SETTINGS]
        first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0, 0.5))
        second = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for process in (first, second):
            process.communicate(timeout=600)
            assert process.returncode == 0
        for part in ("tiny", "standardisers"):
            assert tree_digest(store / part) == tree_digest(calm / part)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that holds about three of the eight scenes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)], capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("may not mount a file system; a refused write is tested in test_cache_crash.py")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_loses_nothing(rooms: Path, calm: Path, small_disk: Path) -> None:
    rows = list(Manifest.read(rooms))
    shutil.copytree(calm / "standardisers", small_disk / "standardisers")
    summary = run_stage1(rows, small_disk, CONFIG, RunConfig())
    done = summary.counts["done"]
    assert 0 < done < len(rows)
    assert summary.counts["failed"] == len(rows) - done
    assert all("disk full" in line for line in summary.failures.values())
    found = tree_digest(small_disk / "tiny")
    expected = tree_digest(calm / "tiny")
    assert found.items() <= expected.items(), "what is there is whole, and nothing else is there"
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    assert run_stage1(rows, small_disk, CONFIG, RunConfig()).counts == {"done": len(rows) - done, "skipped": done}
    assert tree_digest(small_disk / "tiny") == expected
