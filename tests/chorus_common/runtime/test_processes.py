"""Work on several processes: the results of the plain loop, errors, deaths."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from chorus_common.runtime.errors import ChorusError
from chorus_common.runtime.processes import each_as_done


@dataclass(frozen=True)
class Work:
    """Squares; leaves a file per worker process; fails or dies where it is told to."""

    folder: Path
    fails: int = -1
    dies: int = -1

    def __call__(self, item: int) -> int:
        if item == self.fails:
            raise ValueError(f"item {item}")
        if item == self.dies:
            os._exit(3)
        (self.folder / f"{os.getpid()}").touch()
        return item * item


def started() -> None:
    Path(os.environ["STARTED"], str(os.getpid())).touch()


def test_one_worker_is_the_plain_loop_in_this_process(tmp_path: Path) -> None:
    assert list(each_as_done(Work(tmp_path), range(5), 1)) == [(i, i * i) for i in range(5)]
    assert os.listdir(tmp_path) == [str(os.getpid())]
    assert list(each_as_done(Work(tmp_path), [], 3)) == []


def test_workers_are_started_and_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "started").mkdir()
    (tmp_path / "worked").mkdir()
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    found = list(each_as_done(Work(tmp_path / "worked"), range(9), 2, start=started))
    assert sorted(found) == [(i, i * i) for i in range(9)]
    ids = set(os.listdir(tmp_path / "worked"))
    assert str(os.getpid()) not in ids
    assert ids <= set(os.listdir(tmp_path / "started"))


def test_errors_are_the_works_own_and_a_death_is_one_line(tmp_path: Path) -> None:
    for workers in (1, 2):
        with pytest.raises(ValueError, match="item 2"):
            list(each_as_done(Work(tmp_path, fails=2), range(3), workers))
    with pytest.raises(ChorusError, match="a worker process died"):
        list(each_as_done(Work(tmp_path, dies=1), range(3), 2))
