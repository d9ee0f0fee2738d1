"""The demonstration on a scene of the user: its page, and what it says when something is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from evaluation.demo.real import Demo, main, page_of


def demo(tmp_path: Path, views: int = 4) -> Demo:
    scene = tmp_path / "room.ply"
    if not scene.exists():
        scene.write_bytes(b"ply")
    return Demo(scene, tmp_path / "out", ("a <sofa>",), views, "auto", masks=True)


def test_other_settings_get_another_cache(tmp_path: Path) -> None:
    assert demo(tmp_path, 4).store == demo(tmp_path, 4).store != demo(tmp_path, 5).store


def test_the_page_holds_everything_and_escapes_words(tmp_path: Path) -> None:
    answers = [{"words": "a <sofa>", "picture": b"png", "objects": [{"score": 0.51, "center": [1.0, 2.0]}]}]
    text = page_of(demo(tmp_path), answers, 12.3)
    assert "a &lt;sofa&gt;" in text
    assert "data:image/png;base64,cG5n" in text
    assert "score: 0.51, center: [1.00, 2.00]" in text
    assert "<sofa>" not in text


def test_what_is_missing_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHORUS_REAL_TEACHERS", str(tmp_path / "nothing"))
    done = CliRunner().invoke(main, [str(tmp_path / "none.ply")])
    assert done.exit_code == 2
    assert "none.ply: no such scene file" in done.output
    done = CliRunner().invoke(main, [str(demo(tmp_path).scene), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "run: make real-teachers" in done.output
