from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chorus_common.runtime.atomic import atomic_path, create_bytes_atomically, write_text_atomically


def test_success_leaves_exactly_one_file(tmp_path: Path) -> None:
    write_text_atomically(tmp_path / "deep" / "a.txt", "one")
    write_text_atomically(tmp_path / "deep" / "a.txt", "two")
    assert (tmp_path / "deep" / "a.txt").read_text() == "two"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.txt"]


def test_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text_atomically(target, "old")
    with pytest.raises(RuntimeError, match="half way"), atomic_path(target) as temporary:
        temporary.write_text("new")
        raise RuntimeError("half way")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_of_many_that_create_a_file_one_does(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a"
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda i: create_bytes_atomically(target, b"%d" % i), range(8)))
    assert sum(won) == 1
    assert target.read_bytes() == b"%d" % won.index(True)
    assert [p.name for p in target.parent.iterdir()] == ["a"]
