"""Freed memory stays with the process, so that the next array of that size costs no page faults.

The views of a scene ask for the same megabytes again and again. By default glibc returns them to the system each time,
and dask's nanny makes it do so sooner (MALLOC_TRIM_THRESHOLD_ = 65536); the faults cost a worker of stage 1 a third of
its time (docs/guide/stage1.md). Training gains 3 % at most and leaves it alone. Only arrays above `LARGEST` still go
back at once.
"""

from __future__ import annotations

import ctypes
import functools
import sys

#: glibc's names of the two parameters (malloc.h)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
#: bytes: how much free memory is kept at the top of the heap; the largest block that is served from it (glibc's limit)
KEPT, LARGEST = 1 << 30, 1 << 25


@functools.cache
def keep_freed_memory() -> bool:
    """Set it for this process; says whether it could be set (only glibc has such parameters)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, KEPT)) and bool(mallopt(M_MMAP_THRESHOLD, LARGEST))
