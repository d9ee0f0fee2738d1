"""Rendering, teachers and storing at a time: the same bytes, the same order, and errors that come out."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chorus_common.manifest import Manifest
from stage1_render_teachers import overlap, scene_task
from stage1_render_teachers.overlap import done_aside, made_ahead
from stage1_render_teachers.run import run_stage1
from stage1_render_teachers.settings import RunConfig
from stage1_render_teachers.teachers.dense_classical import ClassicalDenseTeacher
from tests.stage1.small_rooms import CONFIG, write_rooms


@pytest.mark.parametrize("ahead", [False, True])
def test_items_come_in_order_and_their_maker_is_at_most_one_ahead(ahead: bool) -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(5):
            made.append(i)
            yield i

    with made_ahead(items(), overlap=ahead) as found:
        for i in found:
            time.sleep(0.02)
            assert made == list(range(min(i + 1 + ahead, 5)))
    assert made == list(range(5))


@pytest.mark.parametrize("overlap", [False, True])
def test_tasks_are_done_in_order_and_before_the_block_ends(overlap: bool) -> None:
    done: list[int] = []
    threads = set()

    def task(i: int) -> None:
        time.sleep(0.01 * (3 - i))  # a later one is quicker
        done.append(i)
        threads.add(threading.current_thread())

    with done_aside(overlap=overlap) as aside:
        for i in range(3):
            aside(lambda i=i: task(i))  # type: ignore[misc]
    assert done == [0, 1, 2]
    assert (threading.main_thread() in threads) is not overlap


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("last", [0, 2])
def test_what_a_task_or_the_maker_raises_comes_out(overlap: bool, last: int) -> None:
    def broken() -> None:
        raise ValueError("a broken task")

    with pytest.raises(ValueError, match="a broken task"), done_aside(overlap=overlap) as aside:
        aside(broken)
        for _ in range(last):
            aside(lambda: None)

    def items() -> Iterator[int]:
        yield 1
        raise ValueError("a broken view")

    with pytest.raises(ValueError, match="a broken view"), made_ahead(items(), overlap=overlap) as found:
        list(found)


def test_the_cache_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG.model_copy(update={"teachers": ("embedded:text", "embedded:dense", "embedded:masks")})
    rows = list(Manifest.read(write_rooms(tmp_path / "rooms", 2, n_views=7)))
    trees = []
    for elsewhere in (False, True):
        monkeypatch.setattr(scene_task, "teachers_run_elsewhere", lambda device, answer=elsewhere: answer)
        store = tmp_path / str(elsewhere)
        assert run_stage1(rows, store, config, RunConfig()).counts == {"done": 2}
        files = [p for p in sorted(store.rglob("*")) if p.is_file() and "outcomes" not in p.parts]
        trees.append({str(p.relative_to(store)): p.read_bytes() for p in files})
    assert len(trees[0]) > 80
    assert trees[0] == trees[1]


def test_a_scene_whose_storing_fails_is_recorded_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_task, "teachers_run_elsewhere", lambda device: True)
    rows = list(Manifest.read(write_rooms(tmp_path / "rooms", 2, n_views=5)))
    calls = iter(range(100))
    look = ClassicalDenseTeacher.features

    def once_not_finite(self, images, grid):  # type: ignore[no-untyped-def]
        features = look(self, images, grid)
        if next(calls) == 3:  # calibration looks first, at two views of each room
            features[0, 0, 0, 0] = float("nan")
        return features

    run_stage1(rows[:1], tmp_path / "calibrated", CONFIG, RunConfig())
    (tmp_path / "store").mkdir()
    (tmp_path / "calibrated" / "standardisers").rename(tmp_path / "store" / "standardisers")
    monkeypatch.setattr(ClassicalDenseTeacher, "features", once_not_finite)
    summary = run_stage1(rows, tmp_path / "store", CONFIG, RunConfig())
    assert summary.counts == {"done": 1, "failed": 1}
    assert "values that are not finite" in next(iter(summary.failures.values()))


def test_steps_overlap_on_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert not overlap.teachers_run_elsewhere("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert overlap.teachers_run_elsewhere("auto")
    assert overlap.teachers_run_elsewhere("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not overlap.teachers_run_elsewhere("auto")
