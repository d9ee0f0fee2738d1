"""Batches on their way to the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from stage2_distill.encoder import PointBatch

T = TypeVar("T")


def to_device(value: T, device: torch.device) -> T:
    """The same value with every tensor in it on `device`: through dataclasses, mappings and tuples. Nothing is copied
    where all of it is there already.
    """
    return value if device.type == "cpu" else _moved(value, device)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):  # the host does not wait for it to arrive
        return value.to(device, non_blocking=True)
    if isinstance(value, PointBatch):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _moved(part, device) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_moved(part, device) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _moved(getattr(value, f.name), device) for f in fields(value)})
    return value
