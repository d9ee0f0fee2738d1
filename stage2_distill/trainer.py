"""The training loop: distil teachers' lifted features into a student, resumable to the bit at every saved step."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chorus_common.features.standardise import PhiSStandardiser, Translation
from chorus_common.labels import LABEL_SPACES
from chorus_common.runtime.errors import ChorusError, ConfigError
from chorus_common.runtime.progress import Progress as Reporter
from chorus_common.runtime.progress import progress as report_progress
from stage2_distill.checkpointing import TrainingProgress, load_state, save_state
from stage2_distill.data.batch import Batch
from stage2_distill.data.dataset import CacheDataset, SceneEntry, scene_identities
from stage2_distill.data.loader import Prefetcher
from stage2_distill.data.order import MODEL, generator
from stage2_distill.distributed import Ranks, process_group
from stage2_distill.encoder import Encoder
from stage2_distill.feature_norms import calibrate_feature_norms
from stage2_distill.interruptions import StopRequest, stop_on_signal, survive_full_disk
from stage2_distill.lora import add_lora, merged_tensors
from stage2_distill.losses.prototypes import prototypes_of_scenes
from stage2_distill.losses.total import total_loss
from stage2_distill.optim import EMA, build_optimizer, set_learning_rate
from stage2_distill.run_folder import RunFolder, RunLog, run_identity
from stage2_distill.schedule import TermWeights, learning_rate, term_weights
from stage2_distill.settings import PrototypeSettings, TeacherSettings, TrainConfig
from stage2_distill.start import TrainData, make_student, tensors_hash
from stage2_distill.student import Student, save_student
from stage2_distill.synced_norm import synchronise_batch_norm
from stage2_distill.validation import Sums, validate
from stage2_distill.zero_shot import ZeroShotCheck, text_aligned_teacher


@dataclass(frozen=True)
class TrainResult:
    """Steps done, steps skipped for non-finite numbers, and the share of step time that was spent waiting for data
    (this session's).
    """

    steps: int
    skipped: int
    starvation: float


def train(config: TrainConfig, data: TrainData, out: str | Path, device: torch.device) -> TrainResult:
    """Train, or go on with the run that `out` holds.

    Raises ChorusError subclasses for input and settings, and ChorusError where the loss stays non-finite.
    """
    if config.threads > 0:
        torch.set_num_threads(config.threads)
    with process_group(device) as ranks:
        return Trainer(config, data, RunFolder(out), device, ranks).run()


class Trainer:
    """One run in one process."""

    def __init__(
        self, config: TrainConfig, data: TrainData, folder: RunFolder, device: torch.device, ranks: Ranks
    ) -> None:
        self.config, self.folder, self.device, self.ranks = config, folder, device, ranks
        self.share = ranks.share(config.batch_size)
        torch.manual_seed(_seed_of(config.seed, 0))
        self.plain, standardisers = make_student(config, data)
        self.teachers = {name: config.teachers.get(name, TeacherSettings()) for name in standardisers}
        identity = self._identity(data, standardisers)
        folder.bind_identity(identity, write=False)
        channels = {name: standardiser.channels for name, standardiser in standardisers.items()}
        translations = {n: t for n, b in standardisers.items() if (t := self.plain.translation(n, b)) is not None}
        make = _dataset_maker(config, channels, self.teachers, self.plain.encoder, translations)
        self.dataset = make(data.scenes)
        self.validation = make(data.validation) if data.validation else None
        self.check = self._zero_shot_check()
        self.student = copy.deepcopy(self.plain).to(device)
        if ranks.world > 1 and config.sync_batch_norm:
            synchronise_batch_norm(self.student)
        if config.lora.rank > 0:
            add_lora(self.student, self.student.encoder, config.lora.rank, config.lora.alpha)
            self.student.to(device)
        self.optimizer = build_optimizer(self.student, config.optim)
        self.average = EMA(self.student, config.optim.ema) if config.optim.ema > 0 else None
        self.prototypes = {
            name: self._prototypes(name, teacher.prototypes)
            for name, teacher in self.teachers.items()
            if teacher.prototypes.weight > 0
        }
        self.total = config.epochs * self.dataset.steps_per_epoch
        self.progress = TrainingProgress()
        if folder.state.exists():
            self.progress = load_state(folder.state, self.student, self.optimizer, self.average)
        self.stop, self.stopping = StopRequest(), False
        folder.bind_identity(identity, write=ranks.rank == 0)  # last: a start that is refused leaves the folder free

    def run(self) -> TrainResult:
        """All steps that are left."""
        start = self.progress.step
        waited = spent = 0.0
        prefetcher = Prefetcher(
            self._batches, start, self.total, workers=self.config.data.workers, prefetch=self.config.data.prefetch
        )
        main = self.ranks.rank == 0
        with contextlib.ExitStack() as stack:
            log = RunLog(self.folder, start, self.config.wandb) if main else None
            if log is not None:
                stack.callback(log.close)
            self.stop = stack.enter_context(stop_on_signal())
            reporter = stack.enter_context(report_progress(self.total, "train", done=start)) if main else None
            began = time.perf_counter()
            for step, batches in enumerate(prefetcher, start):
                record = self._step(step, batches, reporter)
                self.progress.step = step + 1
                now = time.perf_counter()
                record |= {"wait_s": round(prefetcher.waited, 4), "step_s": round(now - began, 4)}
                if step > start:  # the first step fills the pipeline
                    waited, spent = waited + prefetcher.waited, spent + now - began
                began = now
                if log is not None and reporter is not None:
                    log.write("step", step, record)
                    reporter.advance(1, _note(record, waited / spent if spent else 0.0))
                self._after_step(step, log, reporter)
                if self.stopping:
                    self._save(reporter, final=False)
                    raise KeyboardInterrupt
        self._save(None, final=True)
        return TrainResult(self.total, self.progress.skipped, waited / spent if spent else 0.0)

    # ----------------------------------------------------------------------------------------------------------- a step

    def _batches(self, step: int) -> list[Batch]:
        """This process's share of the batch of `step`, as the micro-batches of its forward passes."""
        first, last = self.share
        size = self.config.micro_batch or last - first
        return [self.dataset.batch(step, a, min(a + size, last)) for a in range(first, last, size)]

    def _step(self, step: int, batches: Sequence[Batch], reporter: Reporter | None) -> dict[str, Any]:
        config, student = self.config, self.student
        student.train()
        lr = learning_rate(step, self.total, config.optim)
        set_learning_rate(self.optimizer, lr)
        weights = self._term_weights(step)
        statistics = [b.clone() for b in student.encoder.buffers()]
        samples = sum(len(b) for b in batches)
        losses = dict.fromkeys(weights, 0.0)
        loss, sums = 0.0, Sums()
        for batch in batches:
            # the order of curves is a function of (seed, step), the same in all forward passes of a step; drop path is
            # one of the sample: no generator state needs saving, and a batch may be spread over processes
            torch.manual_seed(_seed_of(config.seed, step + 1))
            moved = batch.to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=config.amp == "bf16"):
                terms = total_loss(student, moved, self.teachers, weights, self.prototypes)
            if terms.total is None:
                continue
            share = len(batch) / samples
            (terms.total * share).backward()
            loss += float(terms.total.detach()) * share
            for name, term in terms.terms.items():
                losses[name] += float(term.loss.detach()) * share
                sums.add(name, term.values(), share * term.seen)
        self.ranks.average_gradients(student)
        norm = torch.nn.utils.clip_grad_norm_(student.parameters(), config.optim.clip or math.inf)
        finite = math.isfinite(loss) and bool(torch.isfinite(norm))
        # all processes skip, stop and balance alike
        mine = [not finite, self.stop.made, *losses.values()]
        flags = self.ranks.sum(torch.tensor(mine, dtype=torch.float64, device=self.device)).tolist()
        self.stopping = flags[1] > 0
        if flags[0] > 0:
            for buffer, value in zip(student.encoder.buffers(), statistics):
                buffer.copy_(value)
            self._skip(step, batches, reporter)
        else:
            self.optimizer.step()
            if not config.sync_batch_norm:
                self.ranks.average_buffers(student.encoder)
            if self.average is not None:
                self.average.update(student, step)
            self.progress.bad_steps = 0
            self._remember_losses({n: total / self.ranks.world for n, total in zip(losses, flags[2:])})
        self.optimizer.zero_grad(set_to_none=True)
        return {
            "epoch": step / self.dataset.steps_per_epoch,
            "loss": loss,
            "lr": lr,
            "grad_norm": float(norm),
            "teachers": {n: {"weight": weights[n].teacher, **values} for n, values in sums.means().items()},
        }

    def _prototypes(self, teacher: str, settings: PrototypeSettings) -> Tensor:
        prototypes = prototypes_of_scenes(
            self.dataset.scenes, teacher, settings, self.config.seed, self.config.objective
        )
        return torch.from_numpy(prototypes).to(self.device)

    def _term_weights(self, step: int) -> dict[str, TermWeights]:
        epoch = step / self.dataset.steps_per_epoch
        weights = {name: term_weights(epoch, settings) for name, settings in self.teachers.items()}
        if self.config.balance == "none":
            return weights
        known = self.progress.teacher_losses
        return {n: replace(w, teacher=w.teacher / known.get(n, 1.0)) for n, w in weights.items()}

    def _remember_losses(self, losses: Mapping[str, float]) -> None:
        """Running means for `balance`; a teacher that was not active, or saw nothing, keeps its old one."""
        known, decay = self.progress.teacher_losses, self.config.balance_decay
        for name, loss in losses.items():
            if loss > 0:
                known[name] = decay * known[name] + (1 - decay) * loss if name in known else loss

    def _skip(self, step: int, batches: Sequence[Batch], reporter: Reporter | None) -> None:
        """Count a non-finite step; give up after several in a row. Weights and moments stay as they were."""
        progress = self.progress
        progress.bad_steps += 1
        progress.skipped += 1
        scenes = ", ".join(dict.fromkeys(name for batch in batches for name in batch.scenes))
        if reporter is not None:
            reporter.say(f"warning: step {step}: loss or gradient is not finite, step skipped (scenes {scenes})")
        if progress.bad_steps >= self.config.max_bad_steps:
            raise ChorusError(
                f"training gave up: {progress.bad_steps} steps in a row were not finite, the last (step {step}) on "
                f"scenes {scenes}; lower optim.lr, or check these scenes with chorus-stage1 verify"
            )

    # ------------------------------------------------------------------------------------------------ between the steps

    def _after_step(self, step: int, log: RunLog | None, reporter: Reporter | None) -> None:
        done = step + 1
        every = self.config.validate_every * self.dataset.steps_per_epoch
        due = done == self.total or (every > 0 and done % every == 0)
        if self.validation is not None and due and self.ranks.rank == 0:
            self._validate(step, log, reporter)
        if done % self.config.checkpoint_every == 0 and done < self.total:
            self._save(reporter, final=False)

    def _validate(self, step: int, log: RunLog | None, reporter: Reporter | None) -> None:
        """Match all teachers on the validation scenes with the averaged weights; keep the best student."""
        assert self.validation is not None
        student = self._measured_student()
        check = None if self.check is None else ZeroShotCheck(student, *self.check)
        values = validate(student, self.validation, self.teachers, self.device, check)
        scores = {} if check is None else check.scores()
        value = float(np.mean([v["distillation"] for v in values.values()]))
        if log is not None:
            epoch = (step + 1) / self.dataset.steps_per_epoch
            log.write(
                "validation", step, {"epoch": epoch, "distillation": value, "teachers": values, "zero_shot": scores}
            )
        if reporter is not None:
            shown = ", ".join(f"{name} {v['cosine']:.3f}" for name, v in values.items())
            asked = f", zero-shot f-mIoU {scores['f_miou']:.3f}" if scores else ""
            reporter.say(f"validation after step {step + 1}: cosine {shown}{asked}")
        if self.config.best_by == "zero_shot":
            value = -scores.get("f_miou", -math.inf)
        if value < self.progress.best:
            self.progress.best, self.progress.best_step = value, step
            with survive_full_disk(reporter, "best student"):
                save_student(student, self.folder.best, notes=self._notes(step + 1))

    def _zero_shot_check(self) -> tuple[str, str] | None:
        """Teacher and label space of the zero-shot check; ConfigError, before anything is trained, where it cannot be
        made.
        """
        if not self.config.zero_shot:
            return None
        if self.validation is None:
            raise ConfigError("zero_shot = true needs validation scenes; give --val-split")
        spaces = sorted({s.geometry().scene.label_space for s in self.validation.scenes} & set(LABEL_SPACES))
        if len(spaces) != 1:
            raise ConfigError(
                f"zero_shot = true needs validation scenes of one label space, found {', '.join(spaces) or 'none'}"
            )
        teacher = text_aligned_teacher(self.plain, self.teachers)
        ZeroShotCheck(self.plain, teacher, spaces[0])
        return teacher, spaces[0]

    def _saved_weights(self) -> dict[str, Tensor]:
        """Weights of the student that is saved: averaged, adapters merged."""
        tensors = dict(self.student.state_dict()) if self.average is None else self.average.tensors
        lora = self.config.lora
        return merged_tensors(tensors, lora.alpha / lora.rank) if lora.rank > 0 else tensors

    def _measured_student(self) -> Student:
        """What training has made so far: averaged weights, adapters merged, feature norms of predictions measured."""
        student = copy.deepcopy(self.plain).to(self.device)
        student.load_state_dict(self._saved_weights())
        calibrate_feature_norms(student, self.dataset, self.config.seed)
        return student

    def _save(self, reporter: Reporter | None, *, final: bool) -> None:
        """State and student. A full disk in mid-run costs one checkpoint, not the run."""
        if self.ranks.rank != 0:
            return
        guard = contextlib.nullcontext() if final else survive_full_disk(reporter, "checkpoint")
        with guard:
            save_state(self.folder.state, self.progress, self.student, self.optimizer, self.average)
            notes = self._notes(self.progress.step)
            if not final:  # in between a checkpoint should cost neither a copy nor passes over scenes
                save_student(self.plain, self.folder.path, self._saved_weights(), notes)
                return
            save_student(self._measured_student(), self.folder.path, notes=notes)

    def _notes(self, step: int) -> str:
        return (
            f"Trained for {step} of {self.total} steps of {self.config.batch_size} scenes, "
            f"on {len(self.dataset.scenes)} scenes, seed {self.config.seed}. Settings: train.json of the run.\n"
        )

    def _identity(self, data: TrainData, standardisers: Mapping[str, PhiSStandardiser]) -> dict[str, Any]:
        return run_identity(
            self.config,
            scene_identities(data.scenes),
            scene_identities(data.validation),
            {n: b.fingerprint for n, b in standardisers.items()},
            self.plain.encoder.config.model_dump(mode="json"),
            tensors_hash(self.plain) if self.config.student or self.config.encoder.weights else "",
        )


def _dataset_maker(
    config: TrainConfig,
    channels: Mapping[str, int],
    teachers: Mapping[str, TeacherSettings],
    encoder: Encoder,
    translations: Mapping[str, Translation],
) -> Callable[[Sequence[SceneEntry]], CacheDataset]:
    """Datasets of one run share everything but their scenes."""
    return lambda scenes: CacheDataset(
        scenes,
        channels,
        teachers,
        encoder.config,
        config.data,
        config.augment,
        seed=config.seed,
        batch_size=config.batch_size,
        objective=config.objective,
        translations=translations,
    )


def _seed_of(seed: int, *key: int) -> int:
    return int(generator(seed, MODEL, *key).integers(2**63 - 1))


def _note(record: Mapping[str, Any], starvation: float) -> str:
    cosines = " ".join(f"{name} {values['cosine']:.3f}" for name, values in record["teachers"].items())
    return f"loss {record['loss']:.3f}, cosine {cosines}, waiting for data {starvation:.0%}"
