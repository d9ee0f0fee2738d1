"""Where networks run and in which precision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

from chorus_common.runtime.cpu import has_bf16_units
from chorus_common.runtime.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]


def split_precision(spec: str) -> tuple[str, Precision]:
    """ "model@bf16" -> ("model", "bf16"); without a known suffix everything runs in "fp32"."""
    head, at, tail = spec.rpartition("@")
    for precision in get_args(Precision):
        if at and tail == precision:
            return head, precision
    return spec, "fp32"


def pick_device(name: str) -> torch.device:
    """The torch device "cpu", "cuda" or "cuda:1"; "auto" is CUDA where this machine has it.

    Under torchrun "cuda" is the process's own device. Raises ConfigError where this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name}: use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():
            raise ConfigError(f"--device {name}: {torch.cuda.device_count()} CUDA devices found; use --device cpu")
        torch.cuda.set_device(device)
    return device


def choose_precision(asked: Precision | Literal["auto"], device: torch.device) -> tuple[Precision, str]:
    """(precision, a line to say, or "") for what was asked for: "auto" = bf16 where `device` has units for it, else
    fp32. What is asked for by name is taken, with a warning where it only costs time.
    """
    if device.type == "cuda":
        has_units = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_units = has_bf16_units()
    why = f"this {'GPU' if device.type == 'cuda' else 'CPU'} has no bf16 units"
    if asked == "auto":
        return ("bf16", "precision auto: bf16") if has_units else ("fp32", f"precision auto: fp32, since {why}")
    if asked == "bf16" and not has_units:
        return asked, f"warning: precision bf16: {why}; fp32 is faster here and exact"
    return asked, ""


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Context in which matrix products run in `precision` and the sensitive rest in fp32 (torch's own lists)."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let torch use that many CPU threads per operation, in this thread and in those started inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
