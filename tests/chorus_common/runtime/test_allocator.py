"""Freed memory is kept: counted in page faults, in a process set up as dask's nanny sets its workers up."""

import os
import platform
import subprocess
import sys

import pytest

from chorus_common.runtime.allocator import keep_freed_memory

FAULTS = """
import resource, sys, threading
import numpy as np
from chorus_common.runtime.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def work():
    global faults
    np.ones(2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(30):
        np.ones(2**20)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(faults)
"""


def faults(how: str) -> int:
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these parameters")
def test_the_next_array_costs_no_page_faults() -> None:
    given_back = faults("as set by dask")
    assert given_back > 30  # at least one fault per array, however large the system's pages are
    assert faults("kept") < given_back / 4


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_freed_memory.cache_clear()
    monkeypatch.setattr(sys, "platform", "darwin")
    try:
        assert not keep_freed_memory()
    finally:
        keep_freed_memory.cache_clear()
