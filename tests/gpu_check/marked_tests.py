"""All tests that are marked `gpu`, by pytest, in the files that hold such a mark."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.gpu_check.context import Context

ROOT = Path(__file__).parents[2]
_RESULT = re.compile(r"(\d+) (passed|failed|skipped|error|deselected)")


def marked_files() -> list[str]:
    """Test files with a test that needs a card."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(f.relative_to(ROOT)) for f in files if "@pytest.mark.gpu" in f.read_text()]


def run(context: Context) -> None:
    """One row: what pytest says."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", *marked_files()]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=max(5.0, context.left() - 2), check=False
    )
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-500:]]
    counts = {what: int(number) for number, what in _RESULT.findall(lines[-1])}
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    context.add(summary=lines[-1].strip("= "), failures=failed, **counts, passed=done.returncode == 0)
