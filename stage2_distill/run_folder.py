"""A run's folder: what it was started with, its log, its state and its student. Also what makes a second start continue
the first.

train.json            resolved config, scenes with fingerprints, teachers
log.jsonl             one JSON object per optimiser step, validation pass or skipped step
tensorboard/          the same curves for TensorBoard
state.safetensors     training state (checkpointing.py)
config.json, model.safetensors, README.md   the student (student.py); best/ the one with the best validation
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from chorus_common.runtime.atomic import write_text_atomically
from chorus_common.runtime.errors import ConfigError, is_full_disk
from stage2_distill.settings import TrainConfig

#: Settings that change speed or safety but no number, so that a run may be continued with other values.
FREE = ("threads", "checkpoint_every", "wandb", "data.workers", "data.prefetch", "data.memory_mb")


class RunFolder:
    """Paths and identity of a run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{self.path}: is a file; --out names a folder")

    @property
    def state(self) -> Path:
        return self.path / "state.safetensors"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def best(self) -> Path:
        return self.path / "best"

    def bind_identity(self, identity: dict[str, Any], *, write: bool) -> None:
        """Record what the run is, or check that it is the one that was started here.

        Raises ConfigError naming the first difference.
        """
        path = self.path / "train.json"
        if path.exists():
            try:
                before = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                raise ConfigError(f"{path}: damaged; give another --out or delete the folder") from None
            different = first_difference(before, json.loads(json.dumps(identity)))
            if different:
                raise ConfigError(
                    f"{self.path}: holds a run with other settings ({different}); "
                    "give another --out, or the same settings to go on"
                )
        elif write:
            write_text_atomically(path, json.dumps(identity, indent=2, sort_keys=True) + "\n")


def run_identity(
    config: TrainConfig,
    scenes: Sequence[tuple[str, str, str]],
    validation: Sequence[tuple[str, str, str]],
    teachers: dict[str, str],
    encoder: dict[str, Any],
    start: str = "",
) -> dict[str, Any]:
    """Everything that decides what a run computes.

    Args:
        scenes, validation: (data set, scene id, fingerprint) in order; scores over other validation scenes could not be
            compared with the best one so far. teachers: name -> fingerprint of teacher and standardiser. encoder:
                resolved
            config. start: hash of the weights that the run starts from.
    """
    return {
        "config": config.model_dump(mode="json"),
        "scenes": scenes,
        "validation": validation,
        "teachers": teachers,
        "encoder": encoder,
        "start": start,
    }


def first_difference(before: Any, now: Any, where: str = "") -> str:
    """The first place where two JSON values differ as "key: old, now new"; "" where they agree. Keys of FREE are
    skipped.
    """
    if where.removeprefix("config.") in FREE:
        return ""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            found = first_difference(before.get(key), now.get(key), f"{where}.{key}" if where else key)
            if found:
                return found
        return ""
    if before == now:
        return ""
    if isinstance(before, list) and isinstance(now, list):
        if len(before) != len(now):
            return f"{where}: {len(before)} entries, now {len(now)}"
        return next(f"{where}: {a}, now {b}" for a, b in zip(before, now) if a != b)
    return f"{where.removeprefix('config.')}: {before}, now {now}"


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

    @contextlib.contextmanager
    def _survive_full_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not is_full_disk(error):
                raise
            if not self._warned:
                self._warned = True
                print(
                    f"warning: disk full, {self._path} and its curves have gaps now. Free some space", file=sys.stderr
                )


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
