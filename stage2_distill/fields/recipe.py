"""The recipe of a field: one step renders the cells of a few views, compares them with their masks and moves the
vectors of the Gaussians that these views see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chorus_common.cache import EmbeddingSource, SceneCache
from chorus_common.lifting import LiftingIndex
from chorus_common.runtime.errors import CacheError
from stage2_distill.data.order import ORDER, generator
from stage2_distill.engine.loop import Run, launch
from stage2_distill.engine.recipe import Loss, Measured, Recipe
from stage2_distill.engine.run_folder import RunFolder
from stage2_distill.engine.settings import OptimSettings
from stage2_distill.fields.losses import (
    chosen_masks,
    compact,
    entropy,
    mixed_target,
    region_balanced_l1,
    region_variance,
)
from stage2_distill.fields.model import GranularityField
from stage2_distill.fields.regions import Regions, read_regions, rows_of_views
from stage2_distill.fields.rendering import view_matrices
from stage2_distill.fields.saved import FieldCard, SavedField, save_field
from stage2_distill.fields.settings import FieldConfig


@dataclass(frozen=True)
class FieldViews:
    """A batch: numbers of the views whose cells are compared (none where a step has fewer views than processes)."""

    views: tuple[int, ...]
    scenes: tuple[str, ...]


class FieldRecipe(Recipe[FieldViews]):
    """Train a field of one scene.

    Args:
        index: of the scene, all views. regions: masks of the same views. views: rows of those to train on.
        scene: its name, for messages. identity: whatever else decides the result. card: what is saved beside the
            weights; without one the field stays in memory.

    Raises CacheError where none of the views has a covered cell with a mask at every level.
    """

    config: FieldConfig
    model: GranularityField
    activity = "field training"
    label = "field"
    advice = "lower field_lr and decoder_lr"
    log_every = 50

    def __init__(
        self,
        config: FieldConfig,
        index: LiftingIndex,
        regions: Regions,
        views: Sequence[int],
        *,
        scene: str = "",
        device: torch.device | str = "cpu",
        identity: Mapping[str, Any] | None = None,
        card: FieldCard | None = None,
    ) -> None:
        self.config, self.grid, self.scene, self.card = config, index.grid, scene, card
        self.identity, self.memory, self.device = identity or {}, {}, torch.device(device)
        # each part has its own constant rate (`make_optimizer`); nothing is clipped or averaged, as published
        self.optim = OptimSettings(lr=1.0, schedule="constant", warmup=0.0, clip=0.0, ema=0.0)
        matrices = view_matrices(
            index, views, min_alpha=config.min_alpha, wanted=regions.complete, device=self.device
        )  # fmt: skip
        used = [(view, matrix) for view, matrix in zip(views, matrices) if len(matrix.cells)]
        if not used:
            raise CacheError(
                f"scene {scene}: no view has a cell with a mask at every level; lower min_share or min_alpha"
            )
        self.matrices = [matrix for _, matrix in used]
        self._cells = [torch.from_numpy(m.cells).to(self.device) for m in self.matrices]
        self._masks = [
            torch.from_numpy(regions.masks[view, m.cells].astype(np.int64)).to(self.device) for view, m in used
        ]
        self._embeddings = torch.from_numpy(regions.embeddings).to(self.device)
        self.steps, self.batch_size = config.iterations, min(config.views_per_step, len(used))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = GranularityField(config, len(index), regions.levels, regions.embeddings.shape[1])
        self.model = model.to(self.device)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Adam over the vectors and the decoders, each with its own rate. eps is published."""
        config, model = self.config, self.model
        groups = []
        for scale, parts in (
            (config.field_lr, [("vectors", model.vectors)]),
            (config.decoder_lr, [(f"decoder.{n}", p) for n, p in model.decoder.named_parameters()]),
            (config.granularity_lr, [(f"granularity.{n}", p) for n, p in model.granularity.named_parameters()]),
        ):
            groups.append({"params": [p for _, p in parts], "names": [n for n, _ in parts], "lr_scale": scale})
        return torch.optim.Adam(groups, eps=1e-15)

    def batch(self, step: int, first: int, last: int) -> FieldViews:
        """Views first..last-1 of a step: all views come once, shuffled, before one comes again."""
        n, size = len(self.matrices), self.batch_size
        places = range(step * size, (step + 1) * size)
        rounds = {p // n: generator(self.config.seed, ORDER, p // n).permutation(n) for p in places}
        # where a round ends within the step a view may be drawn twice; once is enough
        views = list(dict.fromkeys(int(rounds[p // n][p % n]) for p in places))
        return FieldViews(tuple(views[first:last]), (self.scene,))

    def loss(self, batch: FieldViews, step: int) -> Loss:
        config, model, views = self.config, self.model, batch.views
        late = step >= config.regulation_step
        if not views:  # the others count what they have
            self.processes.scale(0, self.device)
            self.processes.scale(0, self.device)
            return Loss(None)
        with torch.autocast(self.device.type, enabled=False):  # there is no sparse product in bf16
            rendered = torch.cat([self.matrices[v].render(model.vectors) for v in views])
        masks = torch.cat([self._masks[v] for v in views])
        if step < config.select_step and model.fixed is None:
            probabilities = rendered.new_full(masks.shape, 1 / masks.shape[1])
        else:
            probabilities = model.probabilities(rendered).float()
        features = model.decode(rendered).float()
        with torch.autocast(self.device.type, enabled=False):
            regions, count = compact(self._chosen(views, probabilities, masks))
            target = mixed_target(self._embeddings[masks], probabilities)
            of_regions, of_cells = (self.processes.scale(n, self.device) for n in (count, len(rendered)))
            distill = region_balanced_l1(features, target, regions, count) * of_regions
            spread = entropy(probabilities) * of_cells
            total = distill + (config.late_entropy if late else config.entropy) * spread
            variance = rendered.new_zeros(())
            if late:
                variance = region_variance(rendered, regions, count) * of_cells
                total = total + config.variance * variance
        return Loss(total, {"terms": Measured({"distill": distill, "entropy": spread, "variance": variance})})

    def _chosen(self, views: Sequence[int], probabilities: Tensor, masks: Tensor) -> Tensor:
        cells = torch.cat([self._cells[v] for v in views])
        place = torch.cat([self._cells[v].new_full((len(self._cells[v]),), i) for i, v in enumerate(views)])
        grid = self.grid
        return chosen_masks(probabilities, masks, cells, place, len(views), grid.rows, grid.cols, self.config.blur)

    def save(self, folder: Path, weights: Mapping[str, Tensor], step: int, *, final: bool) -> None:
        """The field: model.safetensors, field.json."""
        if self.card is not None:
            save_field(self.model, self.card.model_copy(update={"steps": step}), folder)


@dataclass(frozen=True)
class FieldRun:
    """What training a field takes: the scene's cache, the name of its mask teacher, views to leave out by name."""

    cache: SceneCache
    masks: str
    held_out: tuple[str, ...] = ()


def train_field(config: FieldConfig, run: FieldRun, out: Path, device: torch.device | str = "cpu") -> SavedField:
    """Train, or go on with the field that `out` holds.

    Raises ConfigError where `out` holds a run of other settings, CacheError where the cache has not what is needed.
    """
    device = torch.device(device)
    attributes = run.cache.attributes
    scene = f"{attributes.dataset}/{attributes.scene_id}"
    names = run.cache.cameras().names
    left_out = set(rows_of_views(names, run.held_out, scene))
    views = [v for v in range(len(names)) if v not in left_out]
    identity: dict[str, Any] = {
        "config": config.model_dump(mode="json"),
        "scene": [attributes.dataset, attributes.scene_id, attributes.fingerprint],
        "masks": run.masks,
        "views": [names[v] for v in views],
    }
    with launch(config, device) as processes:
        RunFolder(out).check(identity)  # before the masks are read
        regions = read_regions(
            run.cache, run.masks, attributes.grid.grid, min_share=config.min_share, borrow=config.borrow, scene=scene
        )
        card = FieldCard(
            config=config, dataset=attributes.dataset, scene_id=attributes.scene_id,
            fingerprint=attributes.fingerprint, masks=run.masks, source=_source(run.cache, run.masks, scene),
            levels=regions.levels, n_gaussians=attributes.n_gaussians, width=regions.embeddings.shape[1],
            views=tuple(identity["views"]), steps=config.iterations,
        )  # fmt: skip
        recipe = FieldRecipe(
            config, run.cache.lifting(), regions, views, scene=scene, device=device, identity=identity, card=card
        )
        Run(recipe, out, processes).train()
    return SavedField(recipe.model.eval(), card)


def _source(cache: SceneCache, masks: str, scene: str) -> EmbeddingSource:
    source = cache.mask_teachers[masks].embedded_by
    if source is None:
        raise CacheError(
            f"scene {scene}: the cache does not say whose embeddings the masks of {masks} have; run stage 1 again "
            "with a text-aligned teacher"
        )
    return source
