"""Reading files of weights: what is in them as tensors and plain values, or one line on what is wrong.

Every .pth is read with weights_only=True. A trainer's file also holds its scheduler, its best metric and the like, as
objects that torch refuses to build; they are replaced by empty stand-ins, so nothing of the file is ever run.
"""

from __future__ import annotations

import json
import logging
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from chorus_common.runtime.errors import WeightsError

logger = logging.getLogger(__name__)

#: Where trainers keep a model's weights, and the average of them over training.
_STATES = ("state_dict", "model_state_dict", "model", "student", "net", "weights")
_AVERAGED = ("ema_state_dict", "state_dict_ema", "model_ema", "ema")


@dataclass(frozen=True)
class PublishedFile:
    """A published file: its state dict as stored, upstream's constructor arguments, and our configs if we wrote it
    (`record` of an encoder, `student` of a student). adapter: peft's adapter_config.json beside it.
    """

    tensors: dict[str, Tensor]
    arguments: dict[str, Any] | None = None
    record: dict[str, Any] | None = None
    student: dict[str, Any] | None = None
    adapter: dict[str, Any] | None = None


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name. Raises WeightsError where there is no such file or it is damaged."""
    try:
        return load_tensors(path.read_bytes())
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:  # KeyError: a type that torch does not have
        raise WeightsError(f"{path}: not a valid safetensors file ({_short(error)})") from None


def read_published(path: Path) -> PublishedFile:
    """A .pth or .safetensors file. Raises WeightsError where it is not one that holds a state dict."""
    if path.suffix == ".safetensors":
        return PublishedFile(read_safetensors(path), _arguments_beside(path), adapter=_adapter_beside(path))
    try:
        with torch.serialization.safe_globals([(_StandIn, name) for name in _foreign_names(path)]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path}: holds more than tensors and is not loaded ({_short(error)})") from None
    except (
        Exception
    ) as error:  # a damaged pickle sends the unpickler anywhere: KeyError, AssertionError, IndexError, ...
        raise WeightsError(
            f"{path}: not a readable checkpoint ({_short(error)}); damaged or not fully downloaded: fetch it again"
        ) from None
    state = _state_dict(content, path)
    arguments, record, student = (
        _plain_values(content, key, path) for key in ("config", "chorus_config", "chorus_student")
    )
    return PublishedFile(state, arguments, record, student, _adapter_beside(path))


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors in a trainer's file: the averaged ones where there are some, else those of its first known entry."""
    state = content
    while isinstance(state, dict) and not (state and all(map(_is_entry, state.items()))):
        found = [key for key in (*_AVERAGED, *_STATES) if isinstance(state.get(key), dict) and state[key]]
        if not found:
            break
        if found[0] in _AVERAGED and any(key in _STATES for key in found):
            logger.warning("%s: takes the averaged weights ('%s')", path, found[0])
        state = state[found[0]]
    if not isinstance(state, dict) or not state or not all(map(_is_entry, state.items())):
        raise WeightsError(f"{path}: holds no state dict")
    return dict(state)


def _arguments_beside(path: Path) -> dict[str, Any] | None:
    """Constructor arguments in the config.json beside a model.safetensors, as the hub's own mixin leaves them."""
    return _json_beside(path, "config.json") if path.name == "model.safetensors" else None


def _adapter_beside(path: Path) -> dict[str, Any] | None:
    """What peft writes beside the weights of an adapter."""
    return _json_beside(path, "adapter_config.json")


def _json_beside(path: Path, name: str) -> dict[str, Any] | None:
    file = path.with_name(name)
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{file}: not a config ({_short(error)})") from None
    return values if isinstance(values, dict) else None


class _StandIn:
    """In place of any object in a file that is neither a tensor nor a plain container: takes anything, does nothing."""

    def __new__(cls, *arguments: Any) -> _StandIn:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


def _foreign_names(path: Path) -> list[str]:
    """Classes and functions that the file names and torch does not build by itself."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:
        return []  # no zip archive, or a damaged one; torch.load says what is wrong with it, or reads it


def _is_entry(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def _plain_values(content: dict[Any, Any], key: str, path: Path) -> dict[str, Any] | None:
    """Entry `key` of a file, where it is a dict: names and what JSON knows, or WeightsError."""
    values = content.get(key)
    if not isinstance(values, dict):
        return None
    try:
        json.dumps(values)
    except (TypeError, ValueError, RecursionError):
        plain = False
    else:
        plain = all(isinstance(name, str) for name in values)
    if not plain:
        raise WeightsError(f"{path}: its entry '{key}' holds more than names and plain values")
    return dict(values)


def _short(error: Exception) -> str:
    """An error's text in a part of a line, with its type where the text alone says little."""
    text = " ".join(str(error).split())[:120]
    return text if isinstance(error, SafetensorError | pickle.UnpicklingError) else f"{type(error).__name__}: {text}"
