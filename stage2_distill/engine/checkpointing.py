"""The state of a training run in one file: tensors in safetensors, the rest as JSON in its header. No pickles.

Only what cannot be recomputed is stored. Order, crops, augmentations, learning rate, teacher weights and the model's
random draws are functions of (seed, step), so weights, their average, the optimiser's moments and the step are all
there is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
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
from stage2_distill.engine.ema import EMA
from stage2_distill.engine.optim import load_optimizer_tensors, optimizer_tensors
from stage2_distill.engine.sharding import placed

SCHEMA = 2
_ADVICE = "delete it to start the run anew"


@dataclass
class TrainingProgress:
    """Where a run stands.

    Attributes:
        step: optimiser steps done.
        bad_steps: non-finite steps in a row up to here; skipped: all of them so far.
        best: lowest `Validation.value` so far.
        memory: numbers that the recipe needs to go on, such as running means of losses.
    """

    step: int = 0
    bad_steps: int = 0
    skipped: int = 0
    best: float = float("inf")
    memory: dict[str, float] = field(default_factory=dict)


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA | None) -> dict[str, Tensor]:
    """All tensors of a state by the names that they have in its file; shared out where the model is."""
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"optim/{k}": v for k, v in optimizer_tensors(optimizer).items()}
    if ema is not None:
        tensors |= {f"ema/{k}": v for k, v in ema.tensors.items()}
    return tensors


def save_state(path: Path, progress: TrainingProgress, tensors: Mapping[str, Tensor]) -> None:
    """Write the state atomically: a crash or a full disk leaves the previous file as it was.

    tensors: whole ones, named as `state_tensors` does.
    """
    flat = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    header = {"schema": SCHEMA, "progress": progress.__dict__}
    write_bytes_atomically(path, save_tensors(flat, {"chorus": json.dumps(header, sort_keys=True)}))


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA | None) -> TrainingProgress:
    """Put a saved state back into model, optimiser and EMA.

    Raises WeightsError where the file is damaged, of another schema or of another model.
    """
    header, parts = _read(path)
    try:
        if unknown := sorted(parts.keys() - {"model", "optim", "ema"}):
            raise KeyError(unknown[0])
        progress = TrainingProgress(**header["progress"])
        model.load_state_dict(_placed(parts["model"], model.state_dict()))
        load_optimizer_tensors(optimizer, parts["optim"])
        if ema is not None:
            for name, tensor in ema.tensors.items():
                tensor.copy_(placed(parts["ema"][name], tensor))
    except (RuntimeError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path}: training state of another model ({str(error).splitlines()[0]}); {_ADVICE}"
        ) from None
    return progress


def _placed(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors placed as those of the same names; names that are not there are left for the model to refuse."""
    return {name: placed(value, like[name]) if name in like else value for name, value in tensors.items()}


def load_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a saved state that count: averaged ones where the run averages. Raises WeightsError."""
    _, parts = _read(path)
    return parts["ema"] or parts["model"]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Header, and tensors by part ("model", "optim", "ema")."""
    try:
        data = path.read_bytes()
        tensors = load_tensors(data)
        header: dict[str, Any] = json.loads(_metadata(data)["chorus"])
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise WeightsError(f"{path}: damaged training state ({error}); {_ADVICE}") from None
    if header.get("schema") != SCHEMA:
        raise WeightsError(
            f"{path}: training state of schema {header.get('schema')}, this version reads {SCHEMA}; {_ADVICE}"
        )
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optim": {}, "ema": {}}
    for key, value in tensors.items():
        part, _, name = key.partition("/")
        parts.setdefault(part, {})[name] = value
    return header, parts


def _metadata(data: bytes) -> dict[str, str]:
    """The "__metadata__" entry of a safetensors file's header."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size])["__metadata__"]
