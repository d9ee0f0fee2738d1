"""The loop that fine-tunes a segmentor: resumable to the bit, as everything random is a function of (seed, step)."""

from __future__ import annotations

import contextlib
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chorus_common.runtime.errors import ChorusError
from chorus_common.runtime.progress import Progress as Reporter
from chorus_common.runtime.progress import progress
from evaluation.finetuning.data import LabelledBatch, LabelledDataset
from evaluation.finetuning.model import Outputs, Segmentor
from evaluation.finetuning.settings import FineTuneConfig, FineTuneLossSettings
from evaluation.losses.lovasz import lovasz_softmax
from evaluation.losses.offsets import offset_loss
from stage2_distill.checkpointing import TrainingProgress, load_state, save_state
from stage2_distill.data.loader import Prefetcher
from stage2_distill.data.order import MODEL, generator
from stage2_distill.interruptions import stop_on_signal
from stage2_distill.optim import build_optimizer, set_learning_rate
from stage2_distill.run_folder import RunFolder, RunLog
from stage2_distill.schedule import learning_rate

#: Batches in preparation ahead of the step that uses them.
_PREFETCH = 4
#: Settings that change no number, so that a run may go on with others.
_FREE = {"workers", "memory_mb", "checkpoint_every"}


def finetune_model(
    model: Segmentor, dataset: LabelledDataset, config: FineTuneConfig, folder: Path, label: str
) -> None:
    """Train `model` in place for `config.steps` steps, or what is left of them in `folder`.

    Raises ConfigError where `folder` holds another run, ChorusError where the loss stays non-finite, KeyboardInterrupt
    (with the state saved) on Ctrl-C or SIGTERM.
    """
    run = RunFolder(folder)
    run.bind_identity(_identity(model, dataset, config), write=True)
    # Frozen encoders leave only new weights to train: these get the full learning rate.
    optim = config.optim if config.mode == "full" else config.optim.model_copy(update={"encoder_lr_scale": 1.0})
    optimizer = build_optimizer(model, optim)
    done = TrainingProgress()
    if run.state.exists():
        done = load_state(run.state, model, optimizer, None)
    if done.step >= config.steps:
        return
    weights = class_weights(dataset, model.classes.out_features, config.loss.balance)
    device = next(model.parameters()).device
    batches = Prefetcher(dataset.batch, done.step, config.steps, workers=config.workers, prefetch=_PREFETCH)
    with contextlib.ExitStack() as stack:
        log = RunLog(run, done.step)
        stack.callback(log.close)
        stopped = stack.enter_context(stop_on_signal())
        report = stack.enter_context(progress(config.steps, label, done=done.step))
        for step, batch in enumerate(batches, done.step):
            torch.manual_seed(int(generator(config.seed, MODEL, step).integers(2**63 - 1)))
            set_learning_rate(optimizer, learning_rate(step, config.steps, optim))
            record = _step(model, optimizer, batch.to(device), config, weights)
            if record["finite"]:
                done.bad_steps = 0
            else:
                _count_bad_step(done, step, batch, config, report)
            done.step = step + 1
            log.write("step", step, record)
            report.advance(1, f"loss {record['loss']:.3f}")
            if stopped.made or done.step % config.checkpoint_every == 0 or done.step == config.steps:
                save_state(run.state, done, model, optimizer, None)
            if stopped.made:
                raise KeyboardInterrupt


def _step(
    model: Segmentor,
    optimizer: torch.optim.Optimizer,
    batch: LabelledBatch,
    config: FineTuneConfig,
    weights: Tensor | None,
) -> dict[str, Any]:
    """One optimiser step; left out, running statistics too, where loss or gradient is not finite."""
    model.train()
    statistics = [b.clone() for b in model.buffers()]
    with torch.autocast(batch.points.feat.device.type, torch.bfloat16, enabled=config.amp == "bf16"):
        outputs = model(batch.points)
    terms = loss_terms(outputs, batch, config.loss, weights)
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    norm = torch.nn.utils.clip_grad_norm_(trained, config.optim.clip or math.inf)
    finite = bool(torch.isfinite(total)) and bool(torch.isfinite(norm))
    if finite:
        optimizer.step()
    else:
        for buffer, value in zip(model.buffers(), statistics):
            buffer.copy_(value)
    optimizer.zero_grad(set_to_none=True)
    known = batch.labels >= 0
    right = (outputs.logits.detach().argmax(1) == batch.labels)[known].float().mean()
    return {
        "loss": float(total.detach()),
        "terms": {name: float(value.detach()) for name, value in terms.items()},
        "accuracy": float(right),
        "grad_norm": float(norm),
        "finite": finite,
    }


def loss_terms(
    outputs: Outputs, batch: LabelledBatch, loss: FineTuneLossSettings, weights: Tensor | None
) -> dict[str, Tensor]:
    """The weighted terms of the loss by name; weights: [K] of the classes in the cross entropy, or None."""
    logits = outputs.logits.float()
    terms = {}
    if loss.cross_entropy > 0:
        entropy = torch.nn.functional.cross_entropy(logits, batch.labels, weight=weights, ignore_index=-1)
        terms["cross_entropy"] = loss.cross_entropy * entropy
    if loss.lovasz > 0:
        terms["lovasz"] = loss.lovasz * lovasz_softmax(logits.softmax(1), batch.labels)
    if outputs.offsets is not None:
        terms["offset"] = loss.offset * offset_loss(outputs.offsets.float()[batch.centred], batch.offsets)
    return terms


def class_weights(dataset: LabelledDataset, n_classes: int, balance: str) -> Tensor | None:
    """[K] weights of the classes, inverse to their share and 1 in the mean over labels; 0 for unseen ones."""
    if balance == "plain":
        return None
    counts = dataset.class_counts(n_classes).astype(np.float64)
    seen = counts > 0
    weights = np.where(seen, counts.sum() / (seen.sum() * np.maximum(counts, 1)), 0.0)
    return torch.from_numpy(weights.astype(np.float32))


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 over names and bytes of all weights and buffers."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _identity(model: Segmentor, dataset: LabelledDataset, config: FineTuneConfig) -> dict[str, Any]:
    """Everything that decides what the run computes."""
    settings = {k: v for k, v in config.model_dump(mode="json").items() if k not in _FREE}
    return {"config": settings, "start": weights_digest(model), **dataset.identity()}


def _count_bad_step(
    done: TrainingProgress, step: int, batch: LabelledBatch, config: FineTuneConfig, report: Reporter
) -> None:
    done.bad_steps += 1
    done.skipped += 1
    scenes = ", ".join(dict.fromkeys(batch.scenes))
    report.say(f"warning: step {step}: loss or gradient is not finite, step skipped (scenes {scenes})")
    if done.bad_steps >= config.max_bad_steps:
        raise ChorusError(
            f"fine-tuning gave up: {done.bad_steps} steps in a row were not finite, the last (step {step}) on "
            f"scenes {scenes}; lower optim.lr"
        )
