"""State dicts as trainers leave them, taken apart: wrappers' prefixes off, adapters merged, the encoder, the projectors
and parts of other tasks told apart. Nothing is dropped without a word: what no part takes is an error by name, and
parts of other tasks (segmentation heads, a self-distillation teacher) are named on stderr.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from chorus_common.runtime.errors import WeightsError

logger = logging.getLogger(__name__)

#: What DDP, EMA wrappers and Lightning put in front of every key; torch.compile puts its own at any depth.
_WRAPPERS = ("module.", "model.", "net.", "network.", "ema_model.")
_COMPILED = "_orig_mod."
#: Where trainers keep the encoder, the one to load first: a self-distillation run holds two.
_TRUNKS = ("student.backbone.", "backbone.", "encoder.", "student.", "teacher.backbone.", "teacher.", "")
#: First parts of keys that belong to other tasks of the trainers whose files we read.
_OTHER_TASKS = (
    "seg_head", "cls_head", "head", "criteria", "teacher", "student", "mask_head", "unmask_head", "roll_mask_head",
    "patch_proj", "enc2d_model", "loss",
)  # fmt: skip
#: Counters of wrappers: of torch's AveragedModel, and the released Chorus's place in its list of teachers.
_COUNTERS = ("n_averaged", "_teacher_pointer")
#: peft's rank and alpha where the released Chorus adapts its backbone. No state dict holds alpha.
_LORA_RANK, _LORA_ALPHA = 8, 16.0
#: What peft may do beside the plain W + (alpha / r) B A, by the field of its adapter_config.json that asks for it.
_LORA_VARIANTS = ("use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "layer_replication", "corda_config")


@dataclass(frozen=True)
class Parts:
    """A state dict by what its tensors are.

    Attributes:
        trunk: the encoder's tensors with its own keys, kernels in (out, k, k, k, in).
        projectors: teacher -> key within the projector -> tensor.
    """

    trunk: dict[str, Tensor]
    projectors: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def split_state(state: Mapping[str, Tensor], source: object, adapter: Mapping[str, Any] | None = None) -> Parts:
    """The parts of `state`, read from `source`. Raises WeightsError naming the keys that no part takes.

    adapter: peft's adapter_config.json, which says how its low-rank keys are scaled; None = as the release does.
    """
    state = _merge_lora(_unwrapped(state), source, adapter)
    prefix = next((p for p in _TRUNKS if any(k.startswith(f"{p}embedding.") for k in state)), "")
    trunk: dict[str, Tensor] = {}
    projectors: dict[str, dict[str, Tensor]] = {}
    left_out, unknown = [], []
    for key, value in state.items():
        if key.startswith("projectors.") and key.count(".") >= 2:
            _, teacher, name = key.split(".", 2)
            projectors.setdefault(teacher, {})[name] = value
        elif key.startswith(prefix):
            trunk[key.removeprefix(prefix)] = _kernel(value)
        elif key in _COUNTERS:
            continue
        elif key.split(".")[0] in _OTHER_TASKS:
            left_out.append(key)
        else:
            unknown.append(key)
    if prefix == "":  # bare keys: what belongs to another task stands among the encoder's
        left_out = [k for k in trunk if k.split(".")[0] in _OTHER_TASKS]
        trunk = {k: v for k, v in trunk.items() if k not in left_out and k not in _COUNTERS}
    if unknown:
        raise WeightsError(f"{source}: neither the encoder nor a projector takes {_some(unknown)}")
    if left_out:
        num_heads = sorted({k.split(".")[0] for k in left_out})
        logger.warning("%s: %d tensors of other tasks are left out: %s", source, len(left_out), ", ".join(num_heads))
    return Parts(trunk, projectors)


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys without what wrappers of the whole model put before all of them."""
    state = {key.replace(_COMPILED, ""): value for key, value in state.items()}
    while (wrapper := next((w for w in _WRAPPERS if _on_all(state, w)), None)) is not None:
        state = {key.removeprefix(wrapper): value for key, value in state.items()}
    return state


def _on_all(keys: Iterable[str], wrapper: str) -> bool:
    """Whether every key but the wrappers' own counters begins with `wrapper`."""
    wrapped = [key.startswith(wrapper) for key in keys if key not in _COUNTERS]
    return bool(wrapped) and all(wrapped)


def _merge_lora(state: Mapping[str, Tensor], source: object, adapter: Mapping[str, Any] | None) -> dict[str, Tensor]:
    """Plain weights of a model that peft adapted: base + (alpha / r) B A (Hu et al. 2021)."""
    if not any(".lora_A." in key for key in state):
        return dict(state)
    renamed = {key.replace("base_model.model.", ""): value for key, value in state.items()}
    merged: dict[str, Tensor] = {}
    used: set[str] = set()
    for key, value in renamed.items():
        if ".lora_A." in key or ".lora_B." in key:
            continue
        plain = key.replace(".base_layer.", ".")
        owner = key.split(".base_layer.")[0]
        downs = [k for k in renamed if k.startswith(f"{owner}.lora_A.")] if key.endswith(".base_layer.weight") else []
        for down_key in downs:
            up_key = down_key.replace(".lora_A.", ".lora_B.")
            down, up = renamed[down_key], renamed.get(up_key)
            if up is None or down.ndim != 2 or up.ndim != 2 or up.shape[1] != len(down):
                raise WeightsError(f"{source}: the adapter {down_key} has no {up_key} that fits it")
            value = value + _lora_scale(len(down), source, adapter) * (up @ down)
            used |= {down_key, up_key}
        merged[plain] = value
    if stray := [k for k in renamed if (".lora_A." in k or ".lora_B." in k) and k not in used]:
        raise WeightsError(f"{source}: adapters without a layer: {_some(stray)}")
    return merged


def _lora_scale(rank: int, source: object, adapter: Mapping[str, Any] | None) -> float:
    """alpha / r, or alpha / sqrt(r) for rank-stabilised adapters (Kalajdzievski 2023, arXiv 2312.03732)."""
    if adapter is None:
        if rank != _LORA_RANK:
            raise WeightsError(
                f"{source}: adapter of rank {rank}; the file does not say its alpha, which is known for the release's "
                f"rank {_LORA_RANK} alone: put peft's adapter_config.json beside it, or merge it with peft "
                "(merge_and_unload)"
            )
        return _LORA_ALPHA / _LORA_RANK
    alpha = adapter.get("lora_alpha")
    if adapter.get("r") != rank or isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise WeightsError(
            f"{source}: adapter of rank {rank}, but its adapter_config.json says r = {adapter.get('r')}, lora_alpha = "
            f"{alpha}; it belongs to another file"
        )
    if variant := next((name for name in _LORA_VARIANTS if adapter.get(name)), None):
        raise WeightsError(
            f"{source}: its adapter_config.json asks for {variant}; merge it with peft (merge_and_unload)"
        )
    return float(alpha / (rank**0.5 if adapter.get("use_rslora") else rank))


def _kernel(value: Tensor) -> Tensor:
    """A kernel of spconv 1.x, (k, k, k, in, out), in the layout of 2.x; anything else unchanged."""
    if value.ndim == 5 and value.shape[0] == value.shape[1] == value.shape[2] and value.shape[1] != value.shape[3]:
        return value.permute(4, 0, 1, 2, 3).contiguous()
    return value


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - 6} more" if len(keys) > 6 else ""
    return f"{', '.join(sorted(keys)[:6])}{more}"
