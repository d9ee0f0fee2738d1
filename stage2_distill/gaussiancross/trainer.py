"""The pretraining loop: resumable to the bit at every saved step; leaves an ordinary encoder folder."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chorus_common.runtime.errors import ChorusError
from chorus_common.runtime.progress import Progress as Reporter
from chorus_common.runtime.progress import progress as report_progress
from stage2_distill.checkpointing import TrainingProgress, load_state, save_state
from stage2_distill.data.loader import Prefetcher
from stage2_distill.data.order import MODEL, generator
from stage2_distill.encode import encode_scene
from stage2_distill.encoder import load_encoder
from stage2_distill.encoder.model import Encoder
from stage2_distill.gaussiancross.data import CaptureBatch, CaptureDataset, CaptureScene
from stage2_distill.gaussiancross.feature_rank import effective_rank
from stage2_distill.gaussiancross.model import GaussianCross
from stage2_distill.gaussiancross.settings import GaussianCrossConfig
from stage2_distill.gaussiancross.step import step_loss
from stage2_distill.interruptions import stop_on_signal, survive_full_disk
from stage2_distill.optim import EMA, build_optimizer, set_learning_rate
from stage2_distill.run_folder import RunFolder, RunLog
from stage2_distill.schedule import learning_rate
from stage2_distill.start import make_encoder
from stage2_distill.student import Student, save_student

#: Scenes and rows per scene that the effective rank is measured on.
RANK_SCENES, RANK_ROWS = 4, 4096


@dataclass(frozen=True)
class PretrainResult:
    """Steps done and skipped, share of the step time spent waiting for data, effective rank of the encoder's features
    and their width."""

    steps: int
    skipped: int
    starvation: float
    effective_rank: float
    width: int


class Pretrainer:
    """One run in one process.

    Args:
        scenes: what to learn from. identity: whatever else decides the result (scenes' and teachers' fingerprints).
        channels: {teacher: width}.
    """

    def __init__(
        self,
        config: GaussianCrossConfig,
        scenes: Sequence[CaptureScene],
        channels: Mapping[str, int],
        identity: Mapping[str, Any],
        out: str | Path,
        device: torch.device,
    ) -> None:
        if config.threads > 0:
            torch.set_num_threads(config.threads)
        self.config, self.device, self.folder = config, device, RunFolder(out)
        torch.manual_seed(_seed_of(config.seed, 0))
        encoder = make_encoder(config.encoder)
        resolved = {"config": config.model_dump(mode="json"), "encoder": encoder.config.model_dump(mode="json")}
        whole = {"recipe": "gaussiancross", **resolved, **identity}
        self.folder.bind_identity(whole, write=False)
        self.dataset = CaptureDataset(scenes, encoder.config, config)
        self.model = GaussianCross(encoder, config.head, channels, config.projector_hidden).to(device)
        self.optimizer = build_optimizer(self.model, config.optim)
        self.average = EMA(self.model, config.optim.ema) if config.optim.ema > 0 else None
        self.total = config.epochs * self.dataset.steps_per_epoch
        self.progress = TrainingProgress()
        if self.folder.state.exists():
            self.progress = load_state(self.folder.state, self.model, self.optimizer, self.average)
        self.folder.bind_identity(whole, write=True)  # last: a start that is refused leaves the folder free

    def run(self) -> PretrainResult:
        """All steps that are left."""
        start, waited, spent = self.progress.step, 0.0, 0.0
        data = self.config.data
        prefetcher = Prefetcher(self.dataset.batch, start, self.total, workers=data.workers, prefetch=data.prefetch)
        log = RunLog(self.folder, start)
        try:
            with stop_on_signal() as stop, report_progress(self.total, "pretrain", done=start) as reporter:
                began = time.perf_counter()
                for step, batch in enumerate(prefetcher, start):
                    record = self._step(step, batch, reporter)
                    self.progress.step = step + 1
                    now = time.perf_counter()
                    waited, spent = waited + prefetcher.waited, spent + now - began
                    record |= {"wait_s": round(prefetcher.waited, 4), "step_s": round(now - began, 4)}
                    began = now
                    log.write("step", step, record)
                    reporter.advance(1, _note(record))
                    if self.progress.step % self.config.checkpoint_every == 0 and self.progress.step < self.total:
                        with survive_full_disk(reporter, "checkpoint"):
                            self._save()
                    if stop.made:
                        self._save()
                        raise KeyboardInterrupt
            self._save()
            encoder = self._final_encoder()
            rank = self._rank(encoder)
            log.write("rank", self.total, {"effective_rank": rank, "width": encoder.out_channels})
        finally:
            log.close()
        share = waited / spent if spent else 0.0
        return PretrainResult(self.total, self.progress.skipped, share, rank, encoder.out_channels)

    def _step(self, step: int, batch: CaptureBatch, reporter: Reporter) -> dict[str, Any]:
        config, model = self.config, self.model
        # the model's own draws are a function of (seed, step): no generator state needs saving
        seed = _seed_of(config.seed, step + 1)
        torch.manual_seed(seed)
        model.train()
        lr = learning_rate(step, self.total, config.optim)
        set_learning_rate(self.optimizer, lr)
        statistics = model.buffers_copy()
        loss = step_loss(model, batch.to(self.device), config, seed)
        loss.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip or math.inf)
        if math.isfinite(float(loss.total.detach())) and bool(torch.isfinite(norm)):
            self.optimizer.step()
            if self.average is not None:
                self.average.update(model, step)
            self.progress.bad_steps = 0
        else:
            for buffer, value in zip(model.encoder.buffers(), statistics):
                buffer.copy_(value)
            self._skip(step, batch, reporter)
        self.optimizer.zero_grad(set_to_none=True)
        return {
            "epoch": step / self.dataset.steps_per_epoch,
            "lr": lr,
            "grad_norm": float(norm),
            "loss": loss.losses,
            "cosine": loss.cosine,
            "gaussians": loss.gaussians,
        }

    def _skip(self, step: int, batch: CaptureBatch, reporter: Reporter) -> None:
        """Count a non-finite step; give up after several in a row. Weights and moments stay as they were."""
        self.progress.bad_steps += 1
        self.progress.skipped += 1
        scenes = ", ".join(dict.fromkeys(batch.scenes))
        reporter.say(f"warning: step {step}: loss or gradient is not finite, step skipped (scenes {scenes})")
        if self.progress.bad_steps >= self.config.max_bad_steps:
            raise ChorusError(
                f"pretraining gave up: {self.progress.bad_steps} steps in a row were not finite, the last (step "
                f"{step}) on scenes {scenes}; lower optim.lr"
            )

    def _save(self) -> None:
        """Training state and encoder."""
        save_state(self.folder.state, self.progress, self.model, self.optimizer, self.average)
        tensors = self.average.tensors if self.average is not None else dict(self.model.state_dict())
        notes = (
            f"Pretrained by rendering (GaussianCross) for {self.progress.step} of {self.total} steps of "
            f"{self.config.batch_size} scenes, on {len(self.dataset.scenes)} scenes, seed {self.config.seed}. "
            "It has no projectors: probe it, fine-tune it, or train projectors on it with encoder.weights.\n"
        )
        student = Student(self.model.encoder, {})
        save_student(student, self.folder.path, self.model.encoder_tensors(tensors), notes=notes)

    def _final_encoder(self) -> Encoder:
        return load_encoder(self.folder.path).to(self.device)

    def _rank(self, encoder: Encoder) -> float:
        """Effective rank of the features of some points of the first scenes."""
        features = []
        for number, scene in enumerate(self.dataset.scenes[:RANK_SCENES]):
            values = encode_scene(encoder, scene.points).numpy()
            rows = generator(self.config.seed, MODEL, 0, number).permutation(len(values))[:RANK_ROWS]
            features.append(values[np.sort(rows)])
        return effective_rank(np.concatenate(features))


def _seed_of(seed: int, *key: int) -> int:
    return int(generator(seed, MODEL, *key).integers(2**63 - 1))


def _note(record: Mapping[str, Any]) -> str:
    losses = " ".join(f"{name} {value:.3f}" for name, value in record["loss"].items())
    return f"{losses}, {record['gaussians']:.0f} Gaussians"
