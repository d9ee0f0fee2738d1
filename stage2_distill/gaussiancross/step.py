"""The loss of one batch: render every view, compare three attributes, weigh them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stage2_distill.engine.distributed import Processes
from stage2_distill.engine.recipe import Loss, Measured
from stage2_distill.gaussiancross.data import CaptureBatch, SupervisedView
from stage2_distill.gaussiancross.losses import (
    ATTRIBUTES,
    appearance_loss,
    cell_features,
    contrast_loss,
    geometry_loss,
    semantics_terms,
    weighted_total,
)
from stage2_distill.gaussiancross.model import GaussianCross
from stage2_distill.gaussiancross.rendering import RenderedView, render
from stage2_distill.gaussiancross.settings import GaussianCrossConfig


def step_loss(
    model: GaussianCross, batch: CaptureBatch, config: GaussianCrossConfig, seed: int, processes: Processes
) -> Loss:
    """Loss of `batch`; each view counts the same, each teacher as well, over the batches of all processes (but for the
    contrast, which compares the cells of one process). `seed`: of the cells drawn for the contrast.

    Rendering and losses are computed in float32, whatever autocast does to the model.
    """
    weights = {name: float(getattr(config.loss, name)) for name in ATTRIBUTES}
    found: dict[str, list[Tensor]] = {name: [] for name in ATTRIBUTES if weights[name] > 0}
    cosine: dict[str, list[float]] = {}
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
    losses: dict[str, Tensor] = {}
    levels: dict[str, Tensor] = {}
    device = batch.points.feat.device
    splats = model(batch.points, batch.voxels)
    with torch.autocast(device.type, enabled=False):
        splats = [s.float() for s in splats]
        for supervised in batch.supervised_views:
            height, width = supervised.depth.shape
            view = render(
                splats[supervised.scene], supervised.viewmat, supervised.intrinsics, width, height, config.rasterizer
            )
            if "appearance" in found:
                _add(found["appearance"], appearance_loss(view, supervised.color, supervised.known))
            if "geometry" in found:
                _add(found["geometry"], geometry_loss(view, supervised.depth))
            if "semantics" in found or "contrast" in found:
                _semantics(model, view, supervised, config, found.get("semantics"), cosine, pairs)
        if "contrast" in found:
            for name in sorted(pairs):
                predicted, target = (torch.cat(part) for part in zip(*pairs[name]))
                rows = np.random.default_rng(seed).permutation(len(predicted))[: config.loss.contrast_cells]
                drawn = torch.from_numpy(np.sort(rows)).to(predicted.device)
                found["contrast"].append(contrast_loss(predicted[drawn], target[drawn], config.loss.temperature))
        for name, values in found.items():  # the same ones in all processes
            share = processes.scale(len(values), device)
            if values:
                losses[name] = torch.stack(values).mean() * share
            levels[name] = processes.mean(losses[name].detach() if values else torch.zeros((), device=device))
        if losses:
            total = weighted_total(losses, weights, levels if config.loss.adaptive else None)
        else:  # no view of the batch measured anything that is asked for
            total = torch.stack([s.opacities.sum() for s in splats]).sum() * 0
    measured = {
        "": Measured({"gaussians": float(np.mean([len(s) for s in splats]))}),
        "terms": Measured({name: levels[name] for name in losses}),
        "cosine": Measured({name: float(np.mean(values)) for name, values in cosine.items()}),
    }
    return Loss(total, measured)


def _semantics(
    model: GaussianCross,
    view: RenderedView,
    supervised: SupervisedView,
    config: GaussianCrossConfig,
    into: list[Tensor] | None,
    cosine: dict[str, list[float]],
    pairs: dict[str, list[tuple[Tensor, Tensor]]],
) -> None:
    """Match (into `into`) and cells for the contrast (into `pairs`) of one view with every teacher that it has."""
    features, weight = cell_features(view, config.data.pixels_per_cell)
    terms = []
    for name, target in supervised.teachers.items():
        predicted = model.project(name, features)
        if into is not None:
            term = semantics_terms(predicted, target, weight)
            terms.append(term.loss)
            cosine.setdefault(name, []).append(float(term.cosine))
        if config.loss.contrast > 0:
            seen = weight.detach() > 0.5
            pairs.setdefault(name, []).append((predicted[seen], target[seen]))
    if into is not None and terms:
        into.append(torch.stack(terms).mean())


def _add(values: list[Tensor], value: Tensor | None) -> None:
    if value is not None:
        values.append(value)
