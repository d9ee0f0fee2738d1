"""The loss of one batch: render every view, compare three attributes, weigh them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stage2_distill.engine.distributed import Processes
from stage2_distill.engine.recipe import Loss, Measured
from stage2_distill.gaussiancross.data import CaptureBatch, SupervisedView
from stage2_distill.gaussiancross.losses import (
    ATTRIBUTES,
    CONTRASTED,
    MATCHED,
    appearance_loss,
    cell_features,
    contrast_loss,
    geometry_loss,
    semantics_terms,
    weighted_total,
)
from stage2_distill.gaussiancross.model import GaussianCross
from stage2_distill.gaussiancross.rendering import render
from stage2_distill.gaussiancross.selection import rows_where
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
    cosine: dict[str, list[Tensor]] = {}
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
    cells: list[tuple[Tensor, Tensor]] = []
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
                _add(found["appearance"], appearance_loss(view, supervised.color, supervised.colored))
            if "geometry" in found:
                _add(found["geometry"], geometry_loss(view, supervised.depth, supervised.measured))
            if "semantics" in found or "contrast" in found:
                cells.append(cell_features(view, config.data.pixels_per_cell))
        if cells:
            _semantics(model, cells, batch.supervised_views, found.get("semantics"), "contrast" in found, cosine, pairs)
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
        "cosine": Measured({name: torch.stack(values).double().mean() for name, values in cosine.items()}),
    }
    return Loss(total, measured)


def _semantics(
    model: GaussianCross,
    cells: Sequence[tuple[Tensor, Tensor]],
    supervised_views: Sequence[SupervisedView],
    matches: list[Tensor] | None,
    contrasts: bool,
    cosine: dict[str, list[Tensor]],
    pairs: dict[str, list[tuple[Tensor, Tensor]]],
) -> None:
    """Matches of every view with every teacher that it has (into `matches`), and cells for the contrast (into `pairs`).

    cells: features and weights of every view's cells (`cell_features`).
    """
    weights = [weight.detach() for _, weight in cells]
    rows = iter(rows_where([w > least for least in (MATCHED, *([CONTRASTED] if contrasts else [])) for w in weights]))
    matched = [next(rows) for _ in weights]
    contrasted = list(rows)
    for i, ((features, weight), supervised) in enumerate(zip(cells, supervised_views, strict=True)):
        terms = []
        for name, target in supervised.teachers.items():
            predicted = model.project(name, features)
            if matches is not None:
                term = semantics_terms(predicted, target, weight, matched[i])
                terms.append(term.loss)
                cosine.setdefault(name, []).append(term.cosine)
            if contrasts:
                seen = contrasted[i]
                pairs.setdefault(name, []).append((predicted.index_select(0, seen), target.index_select(0, seen)))
        if matches is not None and terms:
            matches.append(torch.stack(terms).mean())


def _add(values: list[Tensor], value: Tensor | None) -> None:
    if value is not None:
        values.append(value)
