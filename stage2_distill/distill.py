"""The recipe of distillation and adaptation: a student learns teachers' features, lifted to it or rendered back."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chorus_common.labels import LABEL_SPACES
from chorus_common.runtime.errors import ConfigError
from chorus_common.runtime.weight_files import weights_fingerprint
from stage2_distill.data.batch import Batch
from stage2_distill.data.dataset import CacheDataset, scene_identities
from stage2_distill.engine.distributed import Processes
from stage2_distill.engine.loop import Run, RunResult, launch
from stage2_distill.engine.means import Number
from stage2_distill.engine.recipe import Loss, Measured, Recipe, Validation
from stage2_distill.engine.seeds import model_seed
from stage2_distill.feature_norms import calibrate_feature_norms
from stage2_distill.lora import add_lora, merged_tensors
from stage2_distill.losses.prototypes import prototypes_of_scenes
from stage2_distill.losses.schedule import TermWeights, term_weights
from stage2_distill.losses.total import total_loss
from stage2_distill.settings import TeacherSettings, TrainConfig
from stage2_distill.start import TrainData, make_student, target_space
from stage2_distill.student import Student, save_student
from stage2_distill.validation import validate
from stage2_distill.zero_shot import ZeroShotCheck, text_aligned_teacher


def train(config: TrainConfig, data: TrainData, out: str | Path, device: torch.device) -> RunResult:
    """Train, or go on with the run that `out` holds.

    Raises ChorusError subclasses for input and settings, and ChorusError where the loss stays non-finite.
    """
    with launch(config, device) as processes:
        return Run(DistillRecipe(config, data, device), out, processes).train()


class DistillRecipe(Recipe[Batch]):
    """Distil the teachers of `data` into a student.

    Attributes:
        plain: the student as it starts, without adapters, on the CPU. model: the one that is trained.
        joined: teachers whose heads are fresh beside trained ones.
        dataset, validation: samples. memory: running mean of each teacher's loss (`config.balance`).
    """

    config: TrainConfig
    model: Student
    advice = "lower optim.lr, or check these scenes with chorus-stage1 verify"

    def __init__(self, config: TrainConfig, data: TrainData, device: torch.device) -> None:
        self.config, self.optim, self.device = config, config.optim, device
        self.batch_size, self.memory = config.batch_size, {}
        self.workers, self.prefetch = config.data.workers, config.data.prefetch
        torch.manual_seed(model_seed(config.seed, 0))
        start = make_student(config, data)
        self.plain, self.joined, standardisers = start.student, start.joined, start.standardisers
        self.teachers = {name: config.teachers.get(name, TeacherSettings()) for name in standardisers}
        known = {entry.dataset for entry in data.scenes}
        for name, teacher in self.teachers.items():
            if unknown := sorted(set(teacher.datasets) - known):
                raise ConfigError(
                    f"teachers.{name}.datasets names '{unknown[0]}'; the scenes are of {', '.join(sorted(known))}"
                )
        self.identity = {
            "config": config.model_dump(mode="json"),
            "scenes": scene_identities(data.scenes),
            # scores over other validation scenes could not be compared with the best one so far
            "validation": scene_identities(data.validation),
            "teachers": {n: s.fingerprint for n, s in standardisers.items()},
            "encoder": self.plain.encoder.config.model_dump(mode="json"),
            "start": weights_fingerprint(self.plain) if config.student or config.encoder.weights else "",
        }
        dataset = partial(
            CacheDataset, teachers={n: s.channels for n, s in standardisers.items()}, settings=self.teachers,
            encoder=self.plain.encoder.config, data=config.data, augmentation=config.augment, seed=config.seed,
            batch_size=config.batch_size, objective=config.objective,
            spaces={n: target_space(self.plain, n, s, self.teachers[n]) for n, s in standardisers.items()},
        )  # fmt: skip
        self.dataset = dataset(data.scenes)
        self.validation = dataset(data.validation) if data.validation else None
        self.steps_per_epoch = self.dataset.mixture.steps
        self.steps = config.epochs * self.steps_per_epoch
        self.validate_every = config.validate_every * self.steps_per_epoch

    def prepare(self, processes: Processes) -> None:
        """Check what validation needs, put the student on its device with its adapters, find the prototypes."""
        super().prepare(processes)
        self.check = self._zero_shot_check()
        self.model = copy.deepcopy(self.plain).to(self.device)
        lora = self.config.lora
        if lora.rank > 0:
            add_lora(self.model, self.model.encoder, lora.rank, lora.alpha, dropout=lora.dropout, modules=lora.modules)
            self.model.to(self.device)
        self.prototypes = {
            name: torch.from_numpy(
                prototypes_of_scenes(
                    self.dataset.scenes, name, teacher.prototypes, self.config.seed, self.config.objective
                )
            ).to(self.device)
            for name, teacher in self.teachers.items()
            if teacher.prototypes.weight > 0
        }  # fmt: skip

    def batch(self, step: int, first: int, last: int) -> Batch:
        return self.dataset.batch(step, first, last)

    def shard_units(self) -> Sequence[nn.Module]:
        return [*self.model.projectors.values(), *self.model.encoder.units()]

    def loss(self, batch: Batch, step: int) -> Loss:
        weights = self.term_weights(step)
        shared = self.config.sharding == "full"
        found = total_loss(self.model, batch, self.teachers, weights, self.prototypes, call_idle=shared)
        measured = {
            f"teachers/{name}": Measured({"weight": weights[name].teacher, **term.values()}, term.seen)
            for name, term in found.terms.items()
        }
        losses: dict[str, Number] = {n: found.terms[n].loss if n in found.terms else 0.0 for n in self.teachers}
        return Loss(found.total, measured, losses, [self.model.projector(name) for name in found.idle])

    def term_weights(self, step: int) -> dict[str, TermWeights]:
        """Weights of all teachers' terms at `step`."""
        epoch = step / self.steps_per_epoch
        weights = {name: term_weights(epoch, settings) for name, settings in self.teachers.items()}
        if self.config.balance == "none":
            return weights
        return {n: replace(w, teacher=w.teacher / self.memory.get(n, 1.0)) for n, w in weights.items()}

    def after_step(self, averaged: Mapping[str, float]) -> None:
        """Running means for `balance`; a teacher that was not active, or saw nothing, keeps its old one."""
        known, decay = self.memory, self.config.balance_decay
        for name, loss in averaged.items():
            if loss > 0:
                known[name] = decay * known[name] + (1 - decay) * loss if name in known else loss

    def validate(self, weights: Mapping[str, Tensor], step: int) -> Validation | None:
        """Match all teachers on the validation scenes, and ask for the scenes' classes where that is wanted."""
        if self.validation is None:
            return None
        student = self.measured_student(weights)
        check = None if self.check is None else ZeroShotCheck(student, *self.check)
        values = validate(student, self.validation, self.teachers, self.device, check)
        scores = {} if check is None else check.scores()
        mean = float(np.mean([v["distillation"] for v in values.values()]))
        epoch = step / self.steps_per_epoch
        line = "cosine " + ", ".join(f"{name} {v['cosine']:.3f}" for name, v in values.items())
        return Validation(
            {"epoch": epoch, "distillation": mean, "teachers": values, "zero_shot": scores},
            line + (f", zero-shot f-mIoU {scores['f_miou']:.3f}" if scores else ""),
            -scores.get("f_miou", -math.inf) if self.config.best_by == "zero_shot" else mean,
            lambda folder: save_student(student, folder, notes=self._notes(step)),
        )

    def measured_student(self, weights: Mapping[str, Tensor]) -> Student:
        """What training has made so far: adapters merged, norms of predictions calibrated."""
        student = copy.deepcopy(self.plain).to(self.device)
        student.load_state_dict(self._merged(weights))
        calibrate_feature_norms(student, self.dataset, self.config.seed)
        return student

    def save(self, folder: Path, weights: Mapping[str, Tensor], step: int, *, final: bool) -> None:
        """The student: config.json, model.safetensors, README.md."""
        if final:
            save_student(self.measured_student(weights), folder, notes=self._notes(step))
        else:  # in between a checkpoint should cost neither a copy nor passes over scenes
            save_student(self.plain, folder, self._merged(weights), self._notes(step))

    def note(self, record: Mapping[str, Any]) -> str:
        cosines = " ".join(f"{n} {values['cosine']:.3f}" for n, values in record.get("teachers", {}).items())
        return f"loss {record['loss']:.3f}, cosine {cosines}"

    def _merged(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        lora = self.config.lora
        return merged_tensors(weights, lora.alpha / lora.rank) if lora.rank > 0 else dict(weights)

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

    def _notes(self, step: int) -> str:
        return (
            f"Trained for {step} of {self.steps} steps of {self.config.batch_size} scenes, "
            f"on {len(self.dataset.scenes)} scenes, seed {self.config.seed}. Settings: train.json of the run.\n"
        )
