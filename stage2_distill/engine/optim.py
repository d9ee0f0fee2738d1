"""AdamW with parameter groups, and the state of an optimiser as named tensors."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from stage2_distill.engine.settings import OptimSettings
from stage2_distill.engine.sharding import is_shared_out, placed


def parameter_groups(model: nn.Module, optim: OptimSettings) -> list[dict[str, Any]]:
    """Groups of named parameters: {place in the model} x {decay, no decay} x {whole, shared out}.

    Weight decay pulls matrices only, unless `optim.decay` is "all". Each group carries "names" in the order of its
    "params" and "lr_scale" against the schedule (`lr_scale`).
    """
    stages = 1 + max((_stage(n) for n, _ in model.named_parameters()), default=0)
    groups: dict[tuple[float, bool, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim > 1 or optim.decay == "all"
        # fused updates do not take whole and shared tensors together
        key = (lr_scale(name, stages, optim), decays, is_shared_out(parameter))
        if key not in groups:
            groups[key] = {
                "params": [],
                "names": [],
                "lr_scale": key[0],
                "weight_decay": optim.weight_decay if key[1] else 0.0,
            }
        groups[key]["params"].append(parameter)
        groups[key]["names"].append(name)
    return list(groups.values())


def lr_scale(name: str, stages: int, optim: OptimSettings) -> float:
    """Factor of a parameter's learning rate.

    Depth counts from the projectors down: the decoder's finest stage is 1, the stem deepest (the layer-wise decay of
    BEiT, Bao et al. 2021, with a U-Net's stages as layers). Blocks are what SceneSplat's recipe slows down by name.

    Args:
        name: of a `Student`'s parameter. stages: of its encoder.
    """
    if not name.startswith("encoder."):
        return 1.0
    part = name.split(".")
    stage = _stage(name)
    if part[1] == "dec":
        depth = stage + 1
    elif part[1] == "enc":
        depth = 2 * stages - 1 - stage
    else:
        depth = 2 * stages
    block = optim.block_lr_scale if any(p.startswith("block") for p in part) else 1.0
    return float(optim.encoder_lr_scale * block * optim.layer_decay**depth)


def _stage(name: str) -> int:
    """Number of the encoder or decoder stage in a parameter's name; 0 for the rest."""
    found = re.match(r"encoder\.(?:enc|dec)\.(?:enc|dec)(\d+)\.", name)
    return int(found[1]) if found else 0


def build_optimizer(model: nn.Module, optim: OptimSettings) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`."""
    return torch.optim.AdamW(parameter_groups(model, optim), lr=optim.lr, betas=optim.betas)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def set_first_beta(optimizer: torch.optim.Optimizer, beta: float) -> None:
    """Give every group of an Adam this first beta."""
    for group in optimizer.param_groups:
        group["betas"] = (beta, group["betas"][1])


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of the optimiser as named tensors "<parameter>/<field>"."""
    tensors = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"]):
            for field, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{name}/{field}"] = torch.as_tensor(value)
    return tensors


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`; parameters that had no state yet stay without."""
    by_name = {n: p for group in optimizer.param_groups for n, p in zip(group["names"], group["params"])}
    for key, value in tensors.items():
        name, _, field = key.rpartition("/")
        parameter = by_name[name]
        # AdamW keeps `step` as a CPU scalar; moments live beside their parameter
        optimizer.state[parameter][field] = value.clone() if field == "step" else placed(value, parameter).clone()
