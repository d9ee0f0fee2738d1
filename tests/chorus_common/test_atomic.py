from __future__ import annotations

from pathlib import Path

import pytest

from chorus_common.atomic import atomic_path, write_text_atomically


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
