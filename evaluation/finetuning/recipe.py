"""The recipe of fine-tuning: a segmentor learns classes, and offsets to the middle of instances, from labels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chorus_common.runtime.weight_files import weights_fingerprint
from evaluation.finetuning.data import LabelledBatch, LabelledDataset
from evaluation.finetuning.model import Outputs, Segmentor
from evaluation.finetuning.settings import FineTuneConfig, FineTuneLossSettings
from evaluation.losses.lovasz import lovasz_softmax
from evaluation.losses.offsets import offset_loss
from stage2_distill.engine.distributed import Processes
from stage2_distill.engine.loop import Run, launch
from stage2_distill.engine.recipe import Loss, Measured, Recipe
from stage2_distill.engine.seeds import model_seed


def finetune_model(
    model: Segmentor, dataset: LabelledDataset, config: FineTuneConfig, folder: Path, label: str
) -> None:
    """Train `model` in place for `config.steps` steps, or what is left of them in `folder`.

    Raises ConfigError where `folder` holds another run, ChorusError where the loss stays non-finite, KeyboardInterrupt
    (with the state saved) on Ctrl-C or SIGTERM.
    """
    recipe = FineTuneRecipe(model, dataset, config, label)
    with launch(config, recipe.device) as processes:
        run = Run(recipe, folder, processes)
        run.train()
    if run.trainer.ema is not None:
        model.load_state_dict(run.trainer.ema.tensors)


class FineTuneRecipe(Recipe[LabelledBatch]):
    """Train `model` on the crops of `dataset`. `label`: what the run is called in its progress bar."""

    config: FineTuneConfig
    model: Segmentor
    activity = "fine-tuning"

    def __init__(self, model: Segmentor, dataset: LabelledDataset, config: FineTuneConfig, label: str) -> None:
        self.model, self.dataset, self.config, self.label = model, dataset, config, label
        # Frozen encoders leave only new weights to train: these get the full learning rate.
        own = {} if config.mode == "full" else {"encoder_lr_scale": 1.0}
        self.optim = config.optim.model_copy(update=own)
        self.device = next(model.parameters()).device
        self.steps, self.batch_size, self.workers = config.steps, config.batch_size, config.workers
        self.memory = {}
        start = weights_fingerprint(model)
        self.identity = {"config": config.model_dump(mode="json"), "start": start, **dataset.identity()}

    def seed(self, step: int) -> int:
        """Of a step, and of the process: draws of the model do not name the crop that they are made for. Counted from
        0, since `build_segmentor` draws the weights otherwise.
        """
        rank = self.processes.rank
        return model_seed(self.config.seed, step, *([rank] if rank else []))

    def batch(self, step: int, first: int, last: int) -> LabelledBatch:
        return self.dataset.batch(step, first, last)

    def loss(self, batch: LabelledBatch, step: int) -> Loss:
        outputs = self.model(batch.points)
        with torch.autocast(self.device.type, enabled=False):
            terms = loss_terms(outputs, batch, self.config.loss, self.class_weights, self.processes)
        known = batch.labels >= 0
        right = (outputs.logits.detach().argmax(1) == batch.labels)[known].float().mean()
        measured = {"": Measured({"accuracy": right}), "terms": Measured(terms)}
        return Loss(torch.stack(list(terms.values())).sum(), measured)

    @cached_property
    def class_weights(self) -> Tensor | None:
        """[K] for the cross entropy; counting labels takes a pass over the scenes, which a finished run is spared."""
        weights = class_weights(self.dataset, self.model.classes.out_features, self.config.loss.balance)
        return None if weights is None else weights.to(self.device)

    def save(self, folder: Path, weights: Mapping[str, Tensor], step: int, *, final: bool) -> None:
        """Nothing: what a fine-tuned model is asked for are its scores, and the training state holds its weights."""


def loss_terms(
    outputs: Outputs, batch: LabelledBatch, loss: FineTuneLossSettings, weights: Tensor | None, processes: Processes
) -> dict[str, Tensor]:
    """The weighted terms of the loss by name. Means over voxels are means over the voxels of all processes; the Lovasz
    term sees those of one process.

    Args:
        weights: [K] of the classes in the cross entropy, or None.
    """
    logits = outputs.logits.float()
    terms = {}
    if loss.cross_entropy > 0:
        known = batch.labels[batch.labels >= 0]
        count = len(known) if weights is None else float(weights[known].sum())
        entropy = torch.nn.functional.cross_entropy(logits, batch.labels, weight=weights, ignore_index=-1)
        terms["cross_entropy"] = loss.cross_entropy * entropy * processes.scale(count, logits.device)
    if loss.lovasz > 0:
        terms["lovasz"] = loss.lovasz * lovasz_softmax(logits.softmax(1), batch.labels)
    if outputs.offsets is not None:
        offsets = offset_loss(outputs.offsets.float()[batch.centred], batch.offsets)
        terms["offset"] = loss.offset * offsets * processes.scale(len(batch.centred), logits.device)
    return terms


def class_weights(dataset: LabelledDataset, n_classes: int, balance: str) -> Tensor | None:
    """[K] weights of the classes, inverse to their share and 1 in the mean over labels; 0 for unseen ones."""
    if balance == "plain":
        return None
    counts = dataset.class_counts(n_classes).astype(np.float64)
    seen = counts > 0
    weights = np.where(seen, counts.sum() / (seen.sum() * np.maximum(counts, 1)), 0.0)
    return torch.from_numpy(weights.astype(np.float32))
