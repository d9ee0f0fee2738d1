"""What a killed writer left behind: temporary folders, and objects in a bucket that no published scene refers to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

from chorus_common.cache.files import uploads
from chorus_common.cache.names import TEMPORARY_PREFIX
from chorus_common.cache.publish import scratch_folder
from chorus_common.runtime.bucket import BucketPath
from chorus_common.runtime.store_path import StorePath, parse_store_path

#: Seconds for which an upload that nobody refers to may still be going on; far longer than a scene takes, because a
#: bucket has no locks and its clock is not ours.
UPLOAD_PATIENCE = 24 * 3600.0


def sweep_orphans(
    folder: str | StorePath, *, older_than: float, upload_patience: float = UPLOAD_PATIENCE
) -> list[StorePath]:
    """Remove temporary folders in `folder` that nothing was written to since `older_than` (seconds since the epoch) and
    nobody holds open; in a bucket also the objects of uploads that ended `upload_patience` seconds before that and
    were never published.

    Pass the start of the job, so that writers of this job are safe even where the file system has no locks. Returns
    what was removed.
    """
    folder = parse_store_path(folder)
    scratch = scratch_folder(folder / "any.zarr")
    removed: list[StorePath] = list(_sweep_folders(scratch, older_than))
    if isinstance(folder, BucketPath):
        removed += _sweep_uploads(folder, older_than - upload_patience)
    return removed


def _sweep_folders(folder: Path, older_than: float) -> list[Path]:
    removed = []
    for path in sorted(folder.glob(f"{TEMPORARY_PREFIX}*")):
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


def _sweep_uploads(folder: BucketPath, older_than: float) -> list[BucketPath]:
    removed = []
    for objects, needed in uploads(folder).items():
        if needed:
            continue
        times = [time for _, time in objects.files().values()]
        if times and max(times) < older_than:
            objects.remove_tree()
            removed.append(objects)
    return removed


def _newest(root: Path) -> float:
    times = [root.stat().st_mtime]
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            with contextlib.suppress(OSError):
                times.append(os.lstat(os.path.join(folder, name)).st_mtime)
    return max(times)
