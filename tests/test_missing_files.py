"""What a command is given and is not there: one line that names it, exit code 2."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

PROGRAMS = {"data": "data_manifests", "stage1": "stage1_render_teachers", "eval": "evaluation"}

LINES = (
    "data check MISSING",
    "data convert MISSING out.ply",
    "data index MISSING",
    "data index MISSING --root .",
    "data inspect MISSING",
    "data prepare scannet --root MISSING --out out",
    "data prepare MISSING --root . --out out",
    "stage1 run --manifest MISSING --store out",
    "stage1 status --manifest MISSING --store out",
    "stage1 verify --store MISSING --manifest MISSING",
    "stage1 import MISSING --store out",
    "stage1 export --store MISSING --out out",
    "eval zero-shot --store MISSING --encoder sonata --out out.json",
    "eval instances --manifest MISSING --encoder sonata --out out.json",
    "eval batch --config MISSING --out out",
    "eval compare MISSING MISSING",
    "eval report --run MISSING --out out",
)


def said(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """Exit code and error stream of a program called in this process."""
    program, *words = line.split()
    monkeypatch.setattr(sys, "argv", [f"chorus-{program}", *words])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"{PROGRAMS[program]}.cli").main()
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize("line", LINES)
def test_one_line_names_what_is_missing(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, error = said(line.replace("MISSING", "no/such_file"), monkeypatch, capsys)
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "no/such_file" in error
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("line", "start"),
    [
        ("data convert a.ply", "error: Missing argument 'OUT'; see "),
        ("data convert a.ply b.ply --lod two", "error: Invalid value for '--lod': 'two' is not a valid integer"),
        ("data no-such-command", "error: No such command 'no-such-command'"),
    ],
)
def test_wrong_usage_is_one_line(
    line: str, start: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, error = said(line, monkeypatch, capsys)
    assert code == 2
    assert error.startswith(start)
    assert error.count("\n") == 1
