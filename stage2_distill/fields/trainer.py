"""Training of a field: one step renders the cells of a few views, compares them with their masks and moves the vectors
of the Gaussians that these views see. Resumable to the bit at every saved step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chorus_common.cache import EmbeddingSource, SceneCache
from chorus_common.lifting import LiftingIndex
from chorus_common.runtime.errors import CacheError, ChorusError
from chorus_common.runtime.progress import progress as report_progress
from stage2_distill.checkpointing import TrainingProgress, load_state, save_state
from stage2_distill.data.order import ORDER, generator
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
from stage2_distill.interruptions import stop_on_signal, survive_full_disk
from stage2_distill.run_folder import RunFolder, RunLog

#: Steps between two reports of the loss.
_NOTE_EVERY = 50


@dataclass(frozen=True)
class StepTerms:
    """What one step measured: the terms without their weights, and the weighted total."""

    total: float
    distill: float
    entropy: float
    variance: float


class FieldTrainer:
    """A field in training, in memory.

    Args:
        index: of the scene, all views. regions: masks of the same views. views: rows of those to train on.

    Raises CacheError where none of the views has a covered cell with a mask at every level.
    """

    def __init__(
        self,
        config: FieldConfig,
        index: LiftingIndex,
        regions: Regions,
        views: Sequence[int],
        *,
        scene: str = "",
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.grid, self.scene = config, index.grid, scene
        self.device = torch.device(device)
        matrices = view_matrices(
            index, views, min_alpha=config.min_alpha, wanted=regions.complete, device=self.device
        )  # fmt: skip
        used = [(view, matrix) for view, matrix in zip(views, matrices) if len(matrix.cells)]
        if not used:
            raise CacheError(
                f"scene {scene}: no view has a cell with a mask at every level; lower min_share or min_alpha"
            )
        self._matrices = [matrix for _, matrix in used]
        self._cells = [torch.from_numpy(m.cells).to(self.device) for m in self._matrices]
        self._masks = [
            torch.from_numpy(regions.masks[view, m.cells].astype(np.int64)).to(self.device) for view, m in used
        ]
        self._embeddings = torch.from_numpy(regions.embeddings).to(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = GranularityField(config, len(index), regions.levels, regions.embeddings.shape[1])
        self.model = model.to(self.device)
        self.optimizer = _adam(self.model, config)

    def step(self, number: int) -> StepTerms:
        """Optimiser step `number`, counted from 0: a function of the state, the config and `number` alone."""
        config, model = self.config, self.model
        batch = self._batch(number)
        rendered = torch.cat([self._matrices[v].render(model.vectors) for v in batch])
        masks = torch.cat([self._masks[v] for v in batch])
        if number < config.select_step and model.fixed is None:
            probabilities = rendered.new_full(masks.shape, 1 / masks.shape[1])
        else:
            probabilities = model.probabilities(rendered)
        regions, count = compact(self._chosen(batch, probabilities, masks))
        target = mixed_target(self._embeddings[masks], probabilities)
        distill = region_balanced_l1(model.decode(rendered), target, regions, count)
        spread = entropy(probabilities)
        late = number >= config.regulation_step
        total = distill + (config.late_entropy if late else config.entropy) * spread
        variance = rendered.new_zeros(())
        if late:
            variance = region_variance(rendered, regions, count)
            total = total + config.variance * variance
        if not torch.isfinite(total):
            raise ChorusError(
                f"scene {self.scene}: the loss of step {number} is not finite; lower field_lr and decoder_lr"
            )
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.optimizer.step()
        return StepTerms(
            float(total.detach()), float(distill.detach()), float(spread.detach()), float(variance.detach())
        )

    def _chosen(self, batch: Sequence[int], probabilities: Tensor, masks: Tensor) -> Tensor:
        cells = torch.cat([self._cells[v] for v in batch])
        sizes = torch.tensor([len(self._cells[v]) for v in batch], device=self.device)
        place = torch.repeat_interleave(torch.arange(len(batch), device=self.device), sizes)
        grid = self.grid
        return chosen_masks(probabilities, masks, cells, place, len(batch), grid.rows, grid.cols, self.config.blur)

    def _batch(self, number: int) -> list[int]:
        """Views of a step: all views come once, shuffled, before one comes again."""
        n, size = len(self._matrices), min(self.config.views_per_step, len(self._matrices))
        places = range(number * size, (number + 1) * size)
        rounds = {p // n: generator(self.config.seed, ORDER, p // n).permutation(n) for p in places}
        # where a round ends within the step a view may be drawn twice; once is enough
        return list(dict.fromkeys(int(rounds[p // n][p % n]) for p in places))


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
    if config.threads > 0:
        torch.set_num_threads(config.threads)
    attributes = run.cache.attributes
    scene = f"{attributes.dataset}/{attributes.scene_id}"
    names = run.cache.cameras().names
    left_out = set(rows_of_views(names, run.held_out, scene))
    views = [v for v in range(len(names)) if v not in left_out]
    folder = RunFolder(out)
    identity = {
        "config": config.model_dump(mode="json"),
        "scene": [attributes.dataset, attributes.scene_id, attributes.fingerprint],
        "masks": run.masks,
        "views": [names[v] for v in views],
    }
    folder.bind_identity(identity, write=False)
    regions = read_regions(run.cache, run.masks, attributes.grid.grid, min_share=config.min_share, scene=scene)
    source = _source(run.cache, run.masks, scene)
    trainer = FieldTrainer(config, run.cache.lifting(), regions, views, scene=scene, device=device)
    folder.bind_identity(identity, write=True)
    done = TrainingProgress()
    if folder.state.exists():
        done = load_state(folder.state, trainer.model, trainer.optimizer, None)

    def saved() -> SavedField:
        card = FieldCard(
            config=config, dataset=attributes.dataset, scene_id=attributes.scene_id,
            fingerprint=attributes.fingerprint, masks=run.masks, source=source, levels=regions.levels,
            n_gaussians=attributes.n_gaussians, width=trainer.model.width,
            views=tuple(names[v] for v in views), steps=done.step,
        )  # fmt: skip
        return SavedField(trainer.model, card)

    def save() -> None:
        save_state(folder.state, done, trainer.model, trainer.optimizer, None)
        field = saved()
        save_field(field.model, field.card, folder.path)

    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_on_signal())
        log = RunLog(folder, done.step)
        stack.callback(log.close)
        reporter = stack.enter_context(report_progress(config.iterations, "field", done=done.step))
        note = ""
        for number in range(done.step, config.iterations):
            terms = trainer.step(number)
            done.step = number + 1
            if number % _NOTE_EVERY == 0:
                log.write("step", number, vars(terms))
                note = f"loss {terms.total:.4f}"
            reporter.advance(1, note)
            if stop.made:
                save()
                raise KeyboardInterrupt
            if done.step % config.checkpoint_every == 0 and done.step < config.iterations:
                with survive_full_disk(reporter, "checkpoint"):
                    save()
    save()
    trainer.model.eval()
    return saved()


def _source(cache: SceneCache, masks: str, scene: str) -> EmbeddingSource:
    source = cache.mask_teachers[masks].embedded_by
    if source is None:
        raise CacheError(
            f"scene {scene}: the cache does not say whose embeddings the masks of {masks} have; run stage 1 again "
            "with a text-aligned teacher"
        )
    return source


def _adam(model: GranularityField, config: FieldConfig) -> torch.optim.Optimizer:
    """Adam over the vectors and the decoders, with the names that a saved state is keyed by. eps is published."""
    groups = []
    for lr, parts in (
        (config.field_lr, [("vectors", model.vectors)]),
        (config.decoder_lr, [(f"decoder.{n}", p) for n, p in model.decoder.named_parameters()]),
        (config.granularity_lr, [(f"granularity.{n}", p) for n, p in model.granularity.named_parameters()]),
    ):
        groups.append({"params": [p for _, p in parts], "names": [n for n, _ in parts], "lr": lr})
    return torch.optim.Adam(groups, eps=1e-15)
