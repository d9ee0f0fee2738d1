"""The training loop: distil teachers' lifted features into a student, resumable to the bit at every saved step."""

from __future__ import annotations

import contextlib
import copy
import errno
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chorus_common.errors import ChorusError, ConfigError
from chorus_common.progress import Progress as Reporter
from chorus_common.progress import progress as report_progress
from chorus_common.standardise import TeacherBasis
from stage2_distill.checkpointing import Progress, load_state, save_state
from stage2_distill.data.batch import Batch
from stage2_distill.data.dataset import CacheDataset, SceneEntry
from stage2_distill.data.loader import Prefetcher
from stage2_distill.data.order import MODEL, generator
from stage2_distill.distributed import Ranks, joined
from stage2_distill.encoder import Encoder, build_encoder, load_encoder
from stage2_distill.losses.distill import distill_loss, teacher_terms
from stage2_distill.optim import WeightAverage, build_optimizer, set_learning_rate
from stage2_distill.run_folder import RunFolder, RunLog, run_identity
from stage2_distill.schedule import TermWeights, learning_rate, term_weights
from stage2_distill.settings import TeacherSettings, TrainConfig
from stage2_distill.student import Student, StudentTeacher, save_student


@dataclass(frozen=True)
class TrainData:
    """What a run learns from: scenes to train on, scenes to validate on (may be empty), and the bases of the teachers
    it matches.
    """

    scenes: Sequence[SceneEntry]
    validation: Sequence[SceneEntry]
    bases: Mapping[str, TeacherBasis]
    text_aligned: frozenset[str] = frozenset()


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
    with joined(device) as ranks:
        return Trainer(config, data, RunFolder(out), device, ranks).run()


class Trainer:
    """One run in one process."""

    def __init__(
        self, config: TrainConfig, data: TrainData, folder: RunFolder, device: torch.device, ranks: Ranks
    ) -> None:
        self.config, self.folder, self.device, self.ranks = config, folder, device, ranks
        self.teachers = {name: config.teachers.get(name, TeacherSettings()) for name in data.bases}
        self.share = ranks.share(config.batch_size)
        torch.manual_seed(_seed_of(config.seed, 0))
        encoder = make_encoder(config)
        folder.claim(self._identity(data, encoder), write=ranks.rank == 0)
        channels = {name: basis.channels for name, basis in data.bases.items()}
        make = _dataset_maker(config, channels, self.teachers, encoder)
        self.dataset = make(data.scenes)
        self.validation = make(data.validation) if data.validation else None
        self.student = Student(encoder, _student_teachers(data, config)).to(device)
        for name, basis in data.bases.items():
            self.student.set_basis(name, basis)
        self.optimizer = build_optimizer(self.student, config.optim)
        self.average = WeightAverage(self.student, config.optim.ema) if config.optim.ema > 0 else None
        self.total = config.epochs * self.dataset.steps_per_epoch
        self.progress = Progress()
        if folder.state.exists():
            self.progress = load_state(folder.state, self.student, self.optimizer, self.average)
        self._signalled = self.stopping = False

    def run(self) -> TrainResult:
        """All steps that are left."""
        start = self.progress.step
        waited = spent = 0.0
        prefetcher = Prefetcher(
            self._batches, start, self.total, workers=self.config.data.workers, ahead=self.config.data.prefetch
        )
        main = self.ranks.rank == 0
        with contextlib.ExitStack() as stack:
            log = RunLog(self.folder, start) if main else None
            if log is not None:
                stack.callback(log.close)
            stack.enter_context(self._stop_on_signal())
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
        # the model's own draws (drop path, order shuffling) are a function of (seed, step): no generator state needs
        # saving
        torch.manual_seed(_seed_of(config.seed, step + 1, self.ranks.rank))
        student.train()
        lr = learning_rate(step, self.total, config.optim)
        set_learning_rate(self.optimizer, lr)
        weights = self._term_weights(step)
        statistics = [b.clone() for b in student.encoder.buffers()]
        samples = sum(len(b.scenes) for b in batches)
        loss, sums = 0.0, _Sums()
        for batch in batches:
            moved = batch.to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=config.amp == "bf16"):
                terms = distill_loss(student, moved, self.teachers, weights)
            if terms.total is None:
                continue
            share = len(batch.scenes) / samples
            (terms.total * share).backward()
            loss += float(terms.total.detach()) * share
            for name, term in terms.terms.items():
                sums.add(name, term.values(), share * term.seen)
        self.ranks.average_gradients(student)
        norm = torch.nn.utils.clip_grad_norm_(student.parameters(), config.optim.clip or math.inf)
        finite = math.isfinite(loss) and bool(torch.isfinite(norm))
        # all processes skip, and stop, at the same step
        flags = self.ranks.sum(
            torch.tensor([not finite, self._signalled], dtype=torch.float32, device=self.device)
        ).tolist()
        self.stopping = flags[1] > 0
        if flags[0] > 0:
            for buffer, value in zip(student.encoder.buffers(), statistics):
                buffer.copy_(value)
            self._skip(step, batches, reporter)
        else:
            self.optimizer.step()
            self.ranks.share_buffers(student.encoder)
            if self.average is not None:
                self.average.update(student, step)
            self.progress.bad_steps = 0
        self.optimizer.zero_grad(set_to_none=True)
        return {
            "epoch": step / self.dataset.steps_per_epoch,
            "loss": loss,
            "lr": lr,
            "grad_norm": float(norm),
            "teachers": {n: {"weight": weights[n].teacher, **values} for n, values in sums.means().items()},
        }

    def _term_weights(self, step: int) -> dict[str, TermWeights]:
        epoch = step / self.dataset.steps_per_epoch
        return {name: term_weights(epoch, settings) for name, settings in self.teachers.items()}

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
        student = copy.deepcopy(self.student)
        student.load_state_dict(self._saved_weights())
        values = validate(student, self.validation, self.teachers, self.device)
        value = float(np.mean([v["match"] for v in values.values()]))
        if log is not None:
            log.write(
                "validation",
                step,
                {"epoch": (step + 1) / self.dataset.steps_per_epoch, "match": value, "teachers": values},
            )
        if reporter is not None:
            shown = ", ".join(f"{name} {v['cosine']:.3f}" for name, v in values.items())
            reporter.say(f"validation after step {step + 1}: cosine {shown}")
        if value < self.progress.best:
            self.progress.best, self.progress.best_step = value, step
            with _keep_going(reporter, "best student"):
                save_student(student, self.folder.best, notes=self._notes(step + 1))

    def _saved_weights(self) -> dict[str, Tensor]:
        return dict(self.student.state_dict()) if self.average is None else self.average.tensors

    def _save(self, reporter: Reporter | None, *, final: bool) -> None:
        """State and student. A full disk in mid-run costs one checkpoint, not the run."""
        if self.ranks.rank != 0:
            return
        guard = contextlib.nullcontext() if final else _keep_going(reporter, "checkpoint")
        with guard:
            save_state(self.folder.state, self.progress, self.student, self.optimizer, self.average)
            save_student(self.student, self.folder.path, self._saved_weights(), notes=self._notes(self.progress.step))

    def _notes(self, step: int) -> str:
        return (
            f"Trained for {step} of {self.total} steps of {self.config.batch_size} scenes, "
            f"on {len(self.dataset.scenes)} scenes, seed {self.config.seed}. Settings: train.json of the run.\n"
        )

    def _identity(self, data: TrainData, encoder: Encoder) -> dict[str, Any]:
        scenes = [(e.dataset, e.scene_id, e.fingerprint) for e in data.scenes]
        return run_identity(
            self.config,
            scenes,
            {n: b.fingerprint for n, b in data.bases.items()},
            encoder.config.model_dump(mode="json"),
        )

    @contextlib.contextmanager
    def _stop_on_signal(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run after the current step, its state saved; a second one ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: object) -> None:
            if self._signalled:
                raise KeyboardInterrupt
            self._signalled = True

        before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@torch.no_grad()
def validate(
    student: Student, dataset: CacheDataset, teachers: Mapping[str, TeacherSettings], device: torch.device
) -> dict[str, dict[str, float]]:
    """Mean match, cosine and SmoothL1 per teacher over whole scenes, each scene counting the same; NaN for a teacher no
    scene has.
    """
    student.eval()
    sums = _Sums()
    for number in range(len(dataset.scenes)):
        batch = dataset.whole(number).to(device)
        latent = student.encoder(batch.points)
        for name in batch.targets:
            term = teacher_terms(student, name, latent, batch, teachers[name], TermWeights(1.0))
            sums.add(name, term.values(), 1.0)
    return sums.means()


def make_encoder(config: TrainConfig) -> Encoder:
    """The encoder that `config` asks for, fresh from torch's generator or from a checkpoint."""
    settings = config.encoder
    if settings.weights:
        if settings.overrides:
            raise ConfigError("encoder.weights brings its own architecture; remove encoder.overrides")
        return load_encoder(settings.weights)
    return build_encoder(settings.preset, **settings.overrides)


def _dataset_maker(
    config: TrainConfig, channels: Mapping[str, int], teachers: Mapping[str, TeacherSettings], encoder: Encoder
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
    )


class _Sums:
    """Weighted means of named values per teacher."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, float]] = {}
        self._weight: dict[str, float] = {}

    def add(self, name: str, values: Mapping[str, Tensor], weight: float) -> None:
        sums = self._sums.setdefault(name, dict.fromkeys(values, 0.0))
        for key, value in values.items():
            sums[key] += float(value.detach()) * weight
        self._weight[name] = self._weight.get(name, 0.0) + weight

    def means(self) -> dict[str, dict[str, float]]:
        return {n: {k: v / self._weight[n] for k, v in sums.items()} for n, sums in self._sums.items()}


def _seed_of(seed: int, *key: int) -> int:
    return int(generator(seed, MODEL, *key).integers(2**63 - 1))


def _student_teachers(data: TrainData, config: TrainConfig) -> dict[str, StudentTeacher]:
    return {
        name: StudentTeacher(
            spec=basis.spec,
            fingerprint=basis.teacher_fingerprint,
            channels=basis.channels,
            hidden=config.projector_hidden,
            text_aligned=name in data.text_aligned,
        )
        for name, basis in data.bases.items()
    }


def _note(record: Mapping[str, Any], starvation: float) -> str:
    cosines = " ".join(f"{name} {values['cosine']:.3f}" for name, values in record["teachers"].items())
    return f"loss {record['loss']:.3f}, cosine {cosines}, waiting for data {starvation:.0%}"


@contextlib.contextmanager
def _keep_going(reporter: Reporter | None, what: str) -> Iterator[None]:
    """Turn a full disk into a warning: the previous file is still there, and the next attempt may find space."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        if reporter is not None:
            reporter.say(f"warning: disk full, {what} not saved; the previous one is kept. Free some space")
