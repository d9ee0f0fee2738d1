"""A run's folder: what it was started with, its log, its state, and what its recipe saves. Also what makes a second
start continue the first.

train.json            resolved config, scenes with fingerprints, teachers: the run's identity
log.jsonl             one JSON object per logged step and validation pass (logs.py)
tensorboard/          the same curves for TensorBoard
state.safetensors     training state (checkpointing.py)
best/                 what the recipe saved at its best validation
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chorus_common.runtime.atomic import write_text_atomically
from chorus_common.runtime.errors import ConfigError

#: Settings that change speed or safety but no number, so that a run may be continued with other values.
FREE = (
    "threads", "sharding", "checkpoint_every", "wandb", "workers", "memory_mb", "data.workers", "data.prefetch",
    "data.memory_mb",
)  # fmt: skip


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

    @property
    def identity(self) -> Path:
        return self.path / "train.json"

    def check(self, identity: Mapping[str, Any]) -> None:
        """Raise ConfigError, naming the first difference, where another run was started here."""
        if not self.identity.exists():
            return
        try:
            before = json.loads(self.identity.read_text(encoding="utf-8"))
        except ValueError:
            raise ConfigError(f"{self.identity}: damaged; give another --out or delete the folder") from None
        different = first_difference(before, json.loads(json.dumps(identity)))
        if different:
            raise ConfigError(
                f"{self.path}: holds a run with other settings ({different}); "
                "give another --out, or the same settings to go on"
            )

    def record(self, identity: Mapping[str, Any]) -> None:
        """Write down what the run is, unless it is there already."""
        if not self.identity.exists():
            write_text_atomically(self.identity, json.dumps(identity, indent=2, sort_keys=True) + "\n")


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
