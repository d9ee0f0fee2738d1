"""evaluation/recipes/toy.sh from the raw layout to the table of results: killed three times, it ends with the same
figures and the same student.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Shares of an undisturbed run's time after which the next one is killed.
KILLED_AT = (0.25, 0.5, 0.75)


def start(out: Path) -> subprocess.Popen[bytes]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        ["sh", "evaluation/recipes/toy.sh", str(out)], cwd=ROOT, start_new_session=True,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def figures(out: Path) -> list[dict[str, object]]:
    """The lines of the table without what names the folder."""
    lines = pq.read_table(out / "results" / "results.parquet").to_pylist()
    return [{k: v for k, v in line.items() if k != "command"} for line in lines]


@pytest.mark.slow
def test_a_chain_that_is_killed_three_times_ends_with_the_same_figures(tmp_path: Path) -> None:
    began = time.monotonic()
    assert start(tmp_path / "whole").wait() == 0
    whole = time.monotonic() - began
    pieces = tmp_path / "pieces"
    done = 0.0
    for share in KILLED_AT:
        process = start(pieces)
        try:
            process.wait(timeout=max(1.0, share * whole - done))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"
        done = share * whole / 2  # much of what was done is passed by in no time
    assert start(pieces).wait() == 0
    assert figures(pieces) == figures(tmp_path / "whole")
    assert len(figures(pieces)) > 1
    for file in ("student/model.safetensors", "student/config.json"):
        assert (pieces / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
