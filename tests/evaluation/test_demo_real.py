"""The demonstration on a scene of the user: its page, and what it says when something is missing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from chorus_common.runtime.errors import ConfigError
from evaluation.demo.real import Demo, main, page_of, run


def demo(tmp_path: Path, views: int = 4) -> Demo:
    scene = tmp_path / "room.ply"
    if not scene.exists():
        scene.write_bytes(b"ply")
    return Demo(scene, tmp_path / "out", ("a <sofa>",), "sofa,lamp", views, "auto", masks=True)


def test_other_settings_get_another_cache(tmp_path: Path) -> None:
    assert demo(tmp_path, 4).store == demo(tmp_path, 4).store != demo(tmp_path, 5).store


def test_the_page_holds_everything_and_escapes_words(tmp_path: Path) -> None:
    where = {"centre": [1.0, 2.0, -0.5], "box": {"size": [0.1, 0.2, 3.0]}}
    answers = [
        {"words": "a <sofa>", "picture": b"png", "objects": [{"relevancy": 0.51, "n_gaussians": 9, **where}]},
        {"words": "a lamp", "picture": b"png", "objects": []},
    ]
    labelled = {"picture": b"jpg", "objects": [{"class": "<lamp>", "count": 7, "confidence": 0.25, **where}]}
    text = page_of(demo(tmp_path), answers, labelled, 12.3)
    assert "a &lt;sofa&gt;" in text
    assert "data:image/png;base64,cG5n" in text
    place = "<td>1.00 2.00 -0.50</td><td>0.10 0.20 3.00</td>"
    assert f"<tr><td>1</td><td>0.51</td><td>9</td>{place}</tr>" in text
    assert text.count("No object answers with a relevancy above 0.5.") == 1
    assert "<sofa>" not in text
    assert "data:image/png;base64,anBn" in text
    assert f"<td>&lt;lamp&gt;</td><td>0.25</td><td>7</td>{place}" in text


class Commands:
    """In place of subprocess: notes the commands and writes what they would."""

    def __init__(self, fail: str = "", code: int = 1) -> None:
        self.called: list[str] = []
        self.fail, self.code = fail, code

    def run(self, command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        program = command[3]
        self.called.append(program)
        if program == self.fail:
            return subprocess.CompletedProcess(command, self.code)
        if program == "run":
            (Path(command[command.index("--store") + 1]) / "d" / "room.zarr").mkdir(parents=True)
        if program in ("query", "label"):
            folder = Path(command[command.index("--out") + 1])
            folder.mkdir(parents=True)
            (folder / ("query.json" if program == "query" else "labels.json")).write_text('{"objects": []}')
            (folder / ("heat.png" if program == "query" else "labels.png")).write_bytes(b"png")
        return subprocess.CompletedProcess(command, 0)


def test_a_second_run_asks_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = Commands(fail="label")
    monkeypatch.setattr("evaluation.demo.real.missing_files", list)
    monkeypatch.setattr("evaluation.demo.real.subprocess.run", commands.run)
    with pytest.raises(ConfigError, match="labels: the command above ended with 1"):
        run(demo(tmp_path))
    assert commands.called == ["check", "index", "run", "query", "label"]
    assert "[5/5] Labels" in capsys.readouterr().out
    commands.called, commands.fail = [], ""
    page = run(demo(tmp_path))
    assert commands.called == ["label"]
    commands.called = []
    before = page.read_bytes()
    assert run(demo(tmp_path)) == page
    assert commands.called == []
    assert page.read_bytes() == before
    other = Demo(demo(tmp_path).scene, tmp_path / "out", ("a bed",), "sofa,lamp", 4, "auto", masks=True)
    run(other)
    assert commands.called == ["query"]


@pytest.mark.parametrize("code", [130, -2, -15])
def test_an_interrupted_command_interrupts_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr("evaluation.demo.real.missing_files", list)
    monkeypatch.setattr("evaluation.demo.real.subprocess.run", Commands(fail="query", code=code).run)
    with pytest.raises(KeyboardInterrupt):
        run(demo(tmp_path))


def test_what_is_missing_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHORUS_REAL_TEACHERS", str(tmp_path / "nothing"))
    done = CliRunner().invoke(main, [str(tmp_path / "none.ply")])
    assert done.exit_code == 2
    assert "none.ply: no such scene file" in done.output
    done = CliRunner().invoke(main, [str(demo(tmp_path).scene), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "run: make real-teachers" in done.output
