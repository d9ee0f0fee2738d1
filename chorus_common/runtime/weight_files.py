"""Weight files of published networks: read without running what is inside them, refused in one line, fingerprinted.

Safetensors hold no code. Torch files are read with `weights_only=True`, which accepts tensors and plain containers and
nothing else (an ordinary pickle can run anything).
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from chorus_common.runtime.errors import WeightsError, one_line

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")

#: Where trainers put the weights among the other things of a checkpoint.
WRAPPERS = ("state_dict", "model")


@contextmanager
def quiet_downloads() -> Iterator[None]:
    """Keep the hub's client from printing its retries: what went wrong is said once, by whoever asked."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def looks_like_file(text: str) -> bool:
    """Whether `text` means a file rather than a name that a model library knows."""
    return "/" in text or "\\" in text or text.endswith(SUFFIXES)


def existing_file(text: str, advice: str) -> Path:
    """The file `text`. Raises WeightsError: a line that ends in `advice` (what to download, where to put it)."""
    path = Path(text).expanduser()
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file; {advice}")
    return path


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a .safetensors or torch file, on the CPU. Raises WeightsError for anything else."""
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile) as error:
        if "weights_only" in str(error):  # an ordinary pickle, or a TorchScript archive
            raise WeightsError(
                f"{path}: not a plain file of tensors, left unopened as it could run code; convert it to safetensors"
            ) from None
        raise WeightsError(f"{path}: damaged weights file ({one_line(error)}); download it again") from None
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path}: holds no state dict (tensors by name)")
    return content


def load_strictly(module: nn.Module, state: dict[str, Tensor], path: Path, architecture: str) -> None:
    """Load `state` (read from `path`) into `module`. Raises WeightsError with the first name that does not fit."""
    own = module.state_dict()
    for what, names in (("lacks", own.keys() - state.keys()), ("has the unknown", state.keys() - own.keys())):
        if names:
            raise WeightsError(f"{path}: does not fit {architecture}: {what} tensor {min(names)} ({len(names)} such)")
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise WeightsError(
                f"{path}: does not fit {architecture}: {name} is {tuple(state[name].shape)}, not {tuple(value.shape)}"
            )
    module.load_state_dict(state)


def weights_fingerprint(module: nn.Module) -> str:
    """16 hex digits of SHA-256 over names, types, shapes and bytes of all parameters and buffers.

    It names the numbers, not the file: the same weights from a hub and from a local copy are the same teacher.
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
