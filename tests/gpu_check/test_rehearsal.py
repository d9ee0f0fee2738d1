"""The check rehearsed: end to end on a CPU at small sizes, and its CUDA branches on the pretended device."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu.pretended import pretended_cuda
from tests.gpu_check.__main__ import ROOT
from tests.gpu_check.context import Context, OutOfTime
from tests.gpu_check.marked_tests import marked_files
from tests.gpu_check.parts import PARTS
from tests.gpu_check.tables import BEGIN, END, tables


def check(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.gpu_check", "--device", "cpu", "--rehearse", "--out", str(out), *options]
    return subprocess.run(
        [*command, "--wheels", str(out / "none")], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_whole_check_runs_on_a_cpu(tmp_path: Path) -> None:
    done = check(tmp_path, "--minutes", "60")
    assert done.returncode == 0, done.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    assert [p.name for p in PARTS] == list(results["parts"])
    assert {part["status"] for part in results["parts"].values()} == {"done"}
    assert all(part["rows"] for part in results["parts"].values())
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n{BEGIN}\nold\n{END}\nrest\n")
    subprocess.run(
        [sys.executable, "-m", "tests.gpu_check.tables", str(tmp_path / "results.json"), str(page)],
        cwd=ROOT,
        check=True,
    )
    text = page.read_text()
    assert "old" not in text
    assert text.endswith(f"{END}\nrest\n")
    assert text.count("|---") > len(PARTS)


def test_without_time_parts_are_skipped_with_a_line(tmp_path: Path) -> None:
    done = check(tmp_path, "--minutes", "0.1", "kernel", "official")
    assert done.returncode == 0
    assert done.stdout.count("skipped: no time left") == 2


def test_a_part_that_fails_leaves_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of one part ends as it starts."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if b'gpu_check.part\\0official' in open('/proc/self/cmdline', 'rb').read():\n"
        "    os.write(1, b'broken on purpose')\n"
        "    os._exit(3)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = check(tmp_path / "out", "official", "kernel")
    assert done.returncode == 1
    assert "official: failed: broken on purpose" in done.stdout
    assert "kernel: done" in done.stdout


@pytest.mark.parametrize("name", ["training", "views"])
def test_parts_that_use_other_code_of_the_tests_still_run(tmp_path: Path, name: str) -> None:
    context = Context(torch.device("cpu"), True, tmp_path / "part.json", time.monotonic() + 600)
    next(p for p in PARTS if p.name == name).run(context)
    assert context.rows


@pytest.fixture
def on_pretended_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    for name, value in (("synchronize", None), ("reset_peak_memory_stats", None), ("empty_cache", None),
                        ("memory_allocated", 0), ("max_memory_allocated", 2**20)):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *args, value=value: value)
    return Context(torch.device("cuda", 0), True, tmp_path / "part.json", time.monotonic() + 600)


@pytest.mark.parametrize("name", ["encoder_parity", "step_parity", "encoder_table", "official", "tiles"])
def test_cuda_branches_run_on_the_pretended_card(on_pretended_card: Context, name: str) -> None:
    with pretended_cuda():
        next(p for p in PARTS if p.name == name).run(on_pretended_card)
    assert on_pretended_card.rows
    assert all(row.get("passed", True) for row in on_pretended_card.rows)
    assert json.loads(on_pretended_card.file.read_text())["rows"] == on_pretended_card.rows


def test_time_ends_a_part(tmp_path: Path) -> None:
    context = Context(torch.device("cpu"), True, tmp_path / "part.json", time.monotonic() + 1)
    context.check_time()
    with pytest.raises(OutOfTime):
        context.check_time(5)


def test_tables_hold_every_figure() -> None:
    rows = [{"a": 0.5, "b": True}, {"a": 12345.0, "b": False}, {"note": "x|y"}]
    parts = {"kernel": {"status": "done", "rows": rows}, "other": {"status": "skipped: why", "rows": []}}
    results = {"machine": {"torch": "2", "triton": "3", "python": "3.12"}, "seconds": 1.0, "parts": parts}
    text = "\n".join(tables(results))
    for figure in ("| 0.5 | yes |", "| 12,345 | **no** |", "| x/y |", "skipped: why", "rehearsal"):
        assert figure in text


def test_every_marked_test_is_found() -> None:
    assert "tests/chorus_common/rasterize/test_rasterize_gsplat.py" in marked_files()
    assert len(marked_files()) == 3
