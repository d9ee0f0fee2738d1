"""The loss of one batch: render every view, compare three attributes, weigh them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stage2_distill.engine.distributed import Processes
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
from stage2_distill.gaussiancross.rendering import RenderedView, Splats, render
from stage2_distill.gaussiancross.settings import GaussianCrossConfig


@dataclass(frozen=True)
class StepLoss:
    """total: what is minimised; losses: mean per attribute; cosine: mean per teacher; gaussians: rendered per scene."""

    total: Tensor
    losses: dict[str, float]
    cosine: dict[str, float]
    gaussians: float


def step_loss(
    model: GaussianCross, batch: CaptureBatch, config: GaussianCrossConfig, seed: int, processes: Processes
) -> StepLoss:
    """Loss of `batch`; each view counts the same, each teacher as well, over the batches of all processes (but for the
    contrast, which compares the cells of one process). `seed`: of the cells drawn for the contrast.

    Rendering and losses are computed in float32, whatever autocast does to the model.
    """
    splats = model(batch.points, batch.voxels)
    with torch.autocast(batch.points.feat.device.type, enabled=False):
        return _compared(model, [s.float() for s in splats], batch, config, seed, processes)


def _compared(
    model: GaussianCross,
    splats: list[Splats],
    batch: CaptureBatch,
    config: GaussianCrossConfig,
    seed: int,
    processes: Processes,
) -> StepLoss:
    weights = {name: float(getattr(config.loss, name)) for name in ATTRIBUTES}
    found: dict[str, list[Tensor]] = {name: [] for name in ATTRIBUTES if weights[name] > 0}
    cosine: dict[str, list[float]] = {}
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
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
    losses = {name: torch.stack(values).mean() for name, values in found.items() if values}
    if not losses:  # no view of the batch measured anything that is asked for
        losses = {"none": torch.stack([s.opacities.sum() for s in splats]).sum() * 0}
    losses, levels = _over_processes(losses, {n: len(v) for n, v in found.items()}, processes)
    return StepLoss(
        weighted_total(losses, weights | {"none": 1.0}, levels if config.loss.adaptive else None),
        {name: float(levels[name]) for name in losses},
        {name: float(np.mean(values)) for name, values in cosine.items()},
        float(np.mean([len(s) for s in splats])),
    )


def _over_processes(
    losses: dict[str, Tensor], counts: dict[str, int], processes: Processes
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses whose mean over processes is the mean over all that was counted, and that mean itself."""
    if processes.world == 1:
        return losses, {name: loss.detach() for name, loss in losses.items()}
    device = next(iter(losses.values())).device
    totals = processes.sum(torch.tensor([counts.get(n, 0) for n in ATTRIBUTES], dtype=torch.float64, device=device))
    share = {n: counts.get(n, 0) * processes.world / max(t, 1.0) for n, t in zip(ATTRIBUTES, totals.tolist())}
    losses = {name: loss * share.get(name, 1.0) for name, loss in losses.items()}
    mine = torch.stack([losses[n].detach() if n in losses else totals.new_zeros(()) for n in ATTRIBUTES])
    levels = processes.sum(mine.double()) / processes.world
    return losses, {"none": levels.new_ones(())} | {n: v.float() for n, v in zip(ATTRIBUTES, levels)}


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
