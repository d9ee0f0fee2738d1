"""Temporary folders that a killed writer left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

from chorus_common.cache.schema import TEMPORARY_PREFIX


def sweep_orphans(folder: str | Path, *, older_than: float) -> list[Path]:
    """Remove temporary folders in `folder` that nothing was written to since `older_than` (seconds since the epoch) and
    nobody holds open.

    Pass the start of the job, so that writers of this job are safe even where the file system has no locks. Returns
    what was removed.
    """
    removed = []
    for path in sorted(Path(folder).glob(f"{TEMPORARY_PREFIX}*")):
        if not path.is_dir() or path.is_symlink() or _newest(path) >= older_than:
            continue
        try:
            lock = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
        except OSError:  # its writer lives
            pass
        finally:
            os.close(lock)
    return removed


def _newest(root: Path) -> float:
    times = [root.stat().st_mtime]
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            with contextlib.suppress(OSError):
                times.append(os.lstat(os.path.join(folder, name)).st_mtime)
    return max(times)
