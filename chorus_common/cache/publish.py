"""A complete scene comes into being at once: a folder by one rename, a scene of a bucket by one conditional object."""

from __future__ import annotations

import errno
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from chorus_common.cache.files import upload
from chorus_common.runtime.atomic import fsync_directory
from chorus_common.runtime.store_path import StorePath

#: Files that are made durable at a time.
SYNCS = 16


def scratch_folder(path: StorePath) -> Path:
    """Where the scene `path` is put together: beside it, so that it can be renamed; for a bucket in the folder for
    temporary files (TMPDIR), which must hold one scene per worker.
    """
    return path.parent if isinstance(path, Path) else Path(tempfile.gettempdir(), f"chorus-{os.getuid()}", path.bucket)


def publish_folder(root: Path, final: StorePath) -> bool:
    """Publish the complete scene in `root`, which lies in `scratch_folder(final)`; False where another process was
    first.
    """
    if not isinstance(final, Path):
        return upload(root, final)
    _sync_tree(root)
    try:
        os.rename(root, final)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        return False
    fsync_directory(final.parent)
    return True


def _sync_tree(root: Path) -> None:
    """Make everything below `root` durable.

    Several at a time: a disk commits what is asked together in one go. A small scene has 50 files in 70 folders, and
    one after the other they took longer than all the rest of stage 1 (docs/experiments/stage1.md).
    """
    folders, files = [], []
    for folder, _, names in os.walk(root):
        folders.append(Path(folder))
        files += [Path(folder, name) for name in names]
    with ThreadPoolExecutor(SYNCS) as pool:
        for paths in (files, folders):
            for _ in pool.map(fsync_directory, paths):  # fsync works alike for a file; what fails is raised
                pass
