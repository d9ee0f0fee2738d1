"""Arrays that live in files of a scratch folder and in memory only while they are worked on; and how far the work is.

The files are mapped, so that a read or a write is ordinary indexing; `Scratch.release` gives their pages back, after
which they count neither as this process's memory nor are lost (the system writes them to disk when it needs the room).
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import uuid
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chorus_common.runtime.errors import ConfigError

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Scratch:
    """A folder of mapped arrays that belongs to one piece of work, named by `key`.

    Attributes:
        finished: number of steps that were completed in it. A process that is killed loses none of what it has
            written, but a machine that goes down may; so only work of the same boot is taken up again.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else uuid.uuid4().hex
        self._head = f"{key} {boot}"
        self._maps: dict[str, tuple[Tensor, mmap.mmap]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if not self._journal.exists() and any(f.name != "lock" for f in folder.iterdir()):
            raise ConfigError(f"{folder}: holds other files; name a scratch folder that is new or empty")
        self._lock = open(folder / "lock", "w")  # noqa: SIM115  held until `close`
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{folder}: another process is at work here; wait for it, or use another folder"
            ) from None
        self.finished = self._read_journal()
        if not self.finished:
            for file in folder.glob("*.bin"):
                file.unlink()
            self.finish(0)

    def close(self) -> None:
        """Let other processes work in the folder."""
        self._lock.close()

    def finish(self, steps: int) -> None:
        """Note that so many steps are complete."""
        self.finished = steps
        temporary = self._journal.with_suffix(".tmp")
        temporary.write_text(f"{self._head} {steps}\n")
        temporary.replace(self._journal)  # not synced to disk, as the arrays are not

    def array(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, *, new: bool = False) -> Tensor:
        """The array `name` as it was left, or, to be filled by a step, a `new` one."""
        if name not in self._maps:
            file = self.folder / f"{name}.bin"
            kind = torch.empty((), dtype=dtype).numpy().dtype
            size = int(np.prod(shape)) * kind.itemsize
            if not file.exists() or file.stat().st_size != size:
                if not new:
                    raise ConfigError(f"{file}: is gone or damaged; remove {self.folder} and start again")
                self._reserve(file, size)
            mapped = np.memmap(file, dtype=kind, mode="r+", shape=shape)
            self._maps[name] = torch.from_numpy(mapped), mapped._mmap  # type: ignore[attr-defined]
        return self._maps[name][0]

    def release(self) -> None:
        """Give back the memory of all arrays; their contents stay."""
        for _, mapped in self._maps.values():
            mapped.madvise(mmap.MADV_DONTNEED)

    def free(self, name: str) -> None:
        """Remove the array `name`."""
        self._maps.pop(name, None)
        (self.folder / f"{name}.bin").unlink(missing_ok=True)

    def _reserve(self, file: Path, size: int) -> None:
        """Blocks on the disk before anything is written: a mapped file that runs out of them kills the process."""
        try:
            with open(file, "wb") as handle:
                os.posix_fallocate(handle.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            file.unlink(missing_ok=True)
            raise ConfigError(
                f"{self.folder}: no room for {size / 2**30:.1f} GiB more; free some, or name a folder on another disk; "
                "the same command then goes on"
            ) from None

    @property
    def _journal(self) -> Path:
        return self.folder / "journal"

    def _read_journal(self) -> int:
        try:
            head, _, steps = self._journal.read_text().strip().rpartition(" ")
            return int(steps) if head == self._head else 0
        except (OSError, ValueError):
            return 0
