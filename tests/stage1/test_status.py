"""Where a store stands."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from chorus_common.manifest import Manifest, ManifestRow
from chorus_common.runtime.errors import CacheError
from stage1_render_teachers.outcomes import OutcomeLog, SceneOutcome
from stage1_render_teachers.run import run_stage1
from stage1_render_teachers.settings import RunConfig
from stage1_render_teachers.status import describe, scenes_per_hour, store_status
from tests.stage1.small_rooms import CONFIG, write_rooms


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[ManifestRow], Path]:
    """Four scenes: one done, one failed, two pending."""
    root = tmp_path_factory.mktemp("half")
    rows = list(Manifest.read(write_rooms(root / "rooms", 4)))
    shutil.rmtree(rows[1].scene_path)
    run_stage1(rows[:2], root / "store", CONFIG, RunConfig())
    return rows, root / "store"


def test_done_failed_and_pending_are_told_apart(half: tuple[list[ManifestRow], Path]) -> None:
    status = store_status(*half)
    assert (status.total, status.done, status.pending) == (4, 1, 2)
    assert list(status.failed) == ["tiny/scene01"]
    assert "no such file" in status.failed["tiny/scene01"]
    assert status.coverage is not None
    assert 0 < status.coverage <= 1
    assert status.least_covered == "tiny/scene00"
    assert status.scenes_per_hour > 0
    assert status.seconds_left == pytest.approx(2 / status.scenes_per_hour * 3600, rel=1e-3, abs=0.1)
    assert status.errors["embedded-dense"]["lifted_cosine"] > 0.9
    text = describe(status)
    assert text.startswith("1 done, 1 failed, 2 pending of 4 scenes")
    assert "failed: tiny/scene01: " in text


def test_the_store_is_the_truth_when_outcomes_are_lost(half: tuple[list[ManifestRow], Path], tmp_path: Path) -> None:
    rows, store = half
    before = store_status(rows, store)
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    shutil.rmtree(copy / "outcomes")
    status = store_status(rows, copy)
    assert (status.done, status.pending, status.failed) == (1, 3, {})
    assert status.bytes == before.bytes
    assert status.coverage == before.coverage
    shutil.rmtree(copy / "tiny" / "scene00.zarr")
    assert store_status(rows, copy).done == 0
    assert "0 done" in describe(store_status(rows, copy))


def test_a_scene_that_failed_before_and_is_there_now_counts_as_done(
    half: tuple[list[ManifestRow], Path], tmp_path: Path
) -> None:
    rows, store = half
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    with OutcomeLog(copy) as log:
        log.add(SceneOutcome("tiny", "scene00", "failed", "scene scene00: was refused", finished=4e9))
    status = store_status(rows, copy)
    assert status.done == 1
    assert list(status.failed) == ["tiny/scene01"]


def test_speed_is_that_of_the_latest_stretch_of_work() -> None:
    def at(finished: float) -> SceneOutcome:
        return SceneOutcome("d", f"{finished}", "done", seconds={"total": 10.0}, finished=finished)

    long_ago = [at(100.0 + 10 * i) for i in range(5)]
    today = [at(1e6 + 20 * i) for i in range(10)]
    assert scenes_per_hour(long_ago + today) == pytest.approx(3600 * 10 / 190)
    assert scenes_per_hour([]) == 0


def test_a_damaged_cache_without_a_record_has_failed(half: tuple[list[ManifestRow], Path], tmp_path: Path) -> None:
    rows, store = half
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    shutil.rmtree(copy / "outcomes")
    (copy / "tiny" / "scene02.zarr").mkdir()
    (copy / "tiny" / "scene00.zarr" / "_files.json").unlink()
    status = store_status(rows, copy)
    assert (status.done, status.pending) == (0, 2)
    assert sorted(status.failed) == ["tiny/scene00", "tiny/scene02"]
    assert all("_files.json" in reason for reason in status.failed.values())


def test_no_store_is_an_error(half: tuple[list[ManifestRow], Path], tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no such folder"):
        store_status(half[0], tmp_path / "nowhere")
