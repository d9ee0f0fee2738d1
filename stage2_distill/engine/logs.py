"""The log of a run: JSON lines, the same curves for TensorBoard and, where asked for, for Weights & Biases."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from chorus_common.runtime.atomic import write_text_atomically
from chorus_common.runtime.errors import ConfigError
from stage2_distill.engine.interruptions import survive_full_disk
from stage2_distill.engine.run_folder import RunFolder


class RunLog:
    """Appends records to log.jsonl and scalars to TensorBoard, and to Weights & Biases where asked to.

    Records from `step` on are dropped first: they will be written again. A full disk costs the records that do not fit
    and one warning, not the run: jsonl goes on where there is room again, TensorBoard's file ends there.
    """

    def __init__(self, folder: RunFolder, step: int, wandb: str = "") -> None:
        kept = []
        if folder.log.exists():
            for line in folder.log.read_text(encoding="utf-8").splitlines():
                record = _parse(line)
                if record is not None and record.get("step", -1) < step:
                    kept.append(line)
        write_text_atomically(folder.log, "".join(line + "\n" for line in kept))
        # unbuffered: what did not fit must not be tried again by a later flush
        self._file = open(folder.log, "ab", buffering=0)  # noqa: SIM115 (closed by `close`)
        self._path, self._warned = folder.log, False
        self._board: SummaryWriter | None = SummaryWriter(str(folder.path / "tensorboard"), purge_step=step)
        self._wandb = _wandb_run(wandb, folder.path) if wandb else None

    def write(self, kind: str, step: int, record: dict[str, Any]) -> None:
        """One record; numbers in it, also in nested objects, become TensorBoard scalars "kind/key/key"."""
        with self._survive_full_disk():
            self._append(json.dumps({"kind": kind, "step": step, **record}) + "\n")
        numbers = _numbers(record, kind)
        if self._board is not None:
            # its writer gives up after an error, which it raises in a later call: without the board, then
            board, self._board = self._board, None
            with self._survive_full_disk():
                for name, value in numbers:
                    board.add_scalar(name, value, step)
                self._board = board
        if self._wandb is not None:
            self._wandb.log(dict(numbers) | {"step": step})

    def close(self) -> None:
        """Let go of all files."""
        self._file.close()
        if self._board is not None:
            with self._survive_full_disk():
                self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _append(self, line: str) -> None:
        """The whole line, or nothing: the next record must not be glued to half of one."""
        end, left = os.fstat(self._file.fileno()).st_size, line.encode()
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            self._file.truncate(end)
            raise

    def _survive_full_disk(self) -> AbstractContextManager[None]:
        return survive_full_disk(self._warn_once, f"{self._path} and its curves have gaps now")

    def _warn_once(self, line: str) -> None:
        if not self._warned:
            self._warned = True
            print(line, file=sys.stderr)


def _wandb_run(project: str, folder: Path) -> Any:
    """A run of Weights & Biases that a resumed training goes on with: its id is the folder's own."""
    try:
        wandb = importlib.import_module("wandb")
    except ImportError:
        raise ConfigError("wandb is set, but the package is not installed; pip install 'chorus3d[wandb]'") from None
    identity = hashlib.sha256((folder / "train.json").read_bytes()).hexdigest()[:16]
    run = wandb.init(project=project, name=folder.name, id=identity, resume="allow", dir=str(folder))
    run.define_metric("*", step_metric="step")
    return run


def _parse(line: str) -> dict[str, Any] | None:
    """A record, or None for the torn last line of a killed run."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _numbers(record: dict[str, Any], prefix: str) -> list[tuple[str, float]]:
    out: list[tuple[str, float]] = []
    for key, value in record.items():
        if isinstance(value, dict):
            out += _numbers(value, f"{prefix}/{key}")
        elif isinstance(value, int | float):
            out.append((f"{prefix}/{key}", float(value)))
    return out
