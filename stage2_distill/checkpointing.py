"""The state of a training run in one file: tensors in safetensors, the rest as JSON in its header. No pickles.

Only what cannot be recomputed is stored. Order, crops, augmentations, learning rate, teacher weights and the model's
random draws are functions of (seed, step), so weights, their average, the optimiser's moments and the step are all
there is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from chorus_common.runtime.atomic import write_bytes_atomically
from chorus_common.runtime.errors import WeightsError
from stage2_distill.optim import EMA, load_optimizer_tensors, optimizer_tensors

SCHEMA = 1


@dataclass
class TrainingProgress:
    """Where a run stands.

    Attributes:
        step: optimiser steps done.
        bad_steps: non-finite steps in a row up to here; skipped: all of them so far.
        best, best_step: lowest validation loss so far (minus f-mIoU, where that is asked for), and its step.
        teacher_losses: running mean of each teacher's loss (`balance`).
    """

    step: int = 0
    bad_steps: int = 0
    skipped: int = 0
    best: float = float("inf")
    best_step: int = -1
    teacher_losses: dict[str, float] = field(default_factory=dict)


def save_state(
    path: Path, progress: TrainingProgress, model: nn.Module, optimizer: torch.optim.Optimizer, average: EMA | None
) -> None:
    """Write the state atomically: a crash or a full disk leaves the previous file as it was."""
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"optim/{k}": v for k, v in optimizer_tensors(optimizer).items()}
    if average is not None:
        tensors |= {f"ema/{k}": v for k, v in average.tensors.items()}
    flat = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    header = {"schema": SCHEMA, "progress": progress.__dict__}
    write_bytes_atomically(path, save_tensors(flat, {"chorus": json.dumps(header, sort_keys=True)}))


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: EMA | None) -> TrainingProgress:
    """Put a saved state back into model, optimiser and average.

    Raises WeightsError where the file is damaged, of another schema or of another model.
    """
    advice = "delete it to start the run anew"
    try:
        data = path.read_bytes()
        tensors = load_tensors(data)
        header: dict[str, Any] = json.loads(_metadata(data)["chorus"])
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise WeightsError(f"{path}: damaged training state ({error}); {advice}") from None
    if header.get("schema") != SCHEMA:
        raise WeightsError(
            f"{path}: training state of schema {header.get('schema')}, this version reads {SCHEMA}; {advice}"
        )
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optim": {}, "ema": {}}
    for key, value in tensors.items():
        part, _, name = key.partition("/")
        parts.setdefault(part, {})[name] = value
    try:
        if unknown := sorted(parts.keys() - {"model", "optim", "ema"}):
            raise KeyError(unknown[0])
        progress = TrainingProgress(**header["progress"])
        model.load_state_dict(parts["model"])
        load_optimizer_tensors(optimizer, parts["optim"])
        if average is not None:
            for name, tensor in average.tensors.items():
                tensor.copy_(parts["ema"][name])
    except (RuntimeError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path}: training state of another model ({str(error).splitlines()[0]}); {advice}"
        ) from None
    return progress


def _metadata(data: bytes) -> dict[str, str]:
    """The "__metadata__" entry of a safetensors file's header."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size])["__metadata__"]
