"""Which device a program runs on."""

from __future__ import annotations

import os

import torch

from chorus_common.runtime.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """The torch device of that name; "auto" is CUDA where there is one. Under torchrun each process has its own."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name}: use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(f"--device {name}: no CUDA device on this machine; use --device cpu")
        torch.cuda.set_device(device)
    return device
