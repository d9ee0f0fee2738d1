"""The peak of a process is its own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from chorus_common.runtime.peak_memory import peak_memory

PROGRAM = """
import numpy as np
from chorus_common.runtime.peak_memory import peak_memory
before = peak_memory()
held = np.ones(100 * 2**20, np.uint8)
print(before, peak_memory())
"""


def test_a_child_of_a_large_process_starts_small_and_sees_what_it_takes() -> None:
    held = np.ones(400 * 2**20, np.uint8)
    assert peak_memory() >= len(held)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before < len(held)
    assert 90 * 2**20 < after - before < 200 * 2**20
