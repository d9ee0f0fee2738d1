"""The tutorial runs as it stands: its blocks are taken from the page and executed in order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT, blocks


def test_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Shell blocks by a shell, Python blocks in one namespace, in a folder that is like a fresh clone."""
    (tmp_path / "evaluation").symlink_to(ROOT / "evaluation")
    (tmp_path / "runs" / "tutorial").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHONPATH"] = str(ROOT)
    names: dict[str, Any] = {}
    for block in blocks(ROOT / "docs" / "tutorial.md", "bash", "python"):
        if block.language == "python":
            exec(compile(block.text, str(block), "exec"), names)
            continue
        done = subprocess.run(["sh", "-e", "-c", block.text], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"

    best = [line for line in capsys.readouterr().out.splitlines() if "100" in line and "%" in line]
    lifted, student = (int(line.split("%")[0].split()[-1]) for line in best[-2:])
    assert lifted > 80, "the page says so"
    assert student > 15, "a sofa is about a tenth of the room: better than chance"
    for file in ("views.png", "features.npy", "answer/heat.png", "answer/objects.ply", "answer/query.json"):
        assert (tmp_path / "runs" / "tutorial" / file).stat().st_size > 0
