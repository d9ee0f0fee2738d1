"""Damaged scene files of every format, manifests and cameras, 2,000 of each: no crash, no hang, no more than 1 GB."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.chaos.fuzz import FAMILIES

pytestmark = pytest.mark.slow
CASES = 2000


@pytest.mark.parametrize("family", FAMILIES)
def test_fuzzed_files(family: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.fuzz", family, "0", str(CASES)], capture_output=True, text=True
    )
    assert done.returncode == 0, f"ended by {done.returncode} in case {done.stderr.splitlines()[-1:]}"
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert sum(found["counts"].values()) == CASES
    assert found["counts"]["refused"] > CASES // 20
    assert found["peak"] < 1e9
    with capsys.disabled():
        print(f"\n{family}: {found['counts']}, peak {found['peak'] / 1e6:.0f} MB")
