"""Student: the encoder, one projector per teacher, and what turns a projection back into the teacher's own space. Saved
as one folder.

    model.safetensors   encoder.*, projectors.<teacher>.*, standardisers.<teacher>.{mean, rotation, phi}
    config.json         everything needed to build and feed it (StudentConfig)
    README.md           model card

The folder is self-contained: it loads without the cache, the teachers or stage 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, ValidationError
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from chorus_common.features.standardise import PhiSStandardiser, Translation
from chorus_common.runtime.atomic import write_bytes_atomically, write_text_atomically
from chorus_common.runtime.config import Config, dump_config
from chorus_common.runtime.errors import ConfigError, WeightsError
from stage2_distill.encoder import Encoder, EncoderConfig, PointBatch
from stage2_distill.encoder.weight_files import read_safetensors
from stage2_distill.projectors import Projector


class StudentTeacher(Config):
    """A teacher that the student imitates.

    Attributes:
        spec, fingerprint: which teacher it was, and the hash of its weights and settings, as recorded by stage 1.
        channels: width of its features. hidden: width of the projector's hidden layer.
        text_aligned: whether `chorus_common.text.load_text_encoder(spec)` gives vectors of the same space.
        feature_norm: of predictions in the standardised space (`stage2_distill.feature_norms`); None = sqrt(channels),
            the feature norm that PHI-S gives a teacher's token.
    """

    spec: str
    fingerprint: str
    channels: int
    hidden: int
    text_aligned: bool = False
    feature_norm: float | None = Field(default=None, gt=0)


class StudentConfig(Config):
    """Contents of a student's config.json."""

    format: Literal["chorus-student"] = "chorus-student"
    schema_version: Literal[1] = 1
    encoder: EncoderConfig
    teachers: dict[str, StudentTeacher]


class StandardiserModule(nn.Module):
    """A teacher's PHI-S standardiser as buffers: y' = R (y - mean) / phi, and back
    (chorus_common.features.standardise)."""

    mean: Tensor
    rotation: Tensor
    phi: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("rotation", torch.eye(channels))
        self.register_buffer("phi", torch.ones(()))

    @staticmethod
    def of(standardiser: PhiSStandardiser) -> StandardiserModule:
        """The same numbers in float32."""
        module = StandardiserModule(len(standardiser.mean))
        module.mean.copy_(torch.from_numpy(np.asarray(standardiser.mean, dtype=np.float32)))
        module.rotation.copy_(torch.from_numpy(np.asarray(standardiser.rotation, dtype=np.float32)))
        module.phi.fill_(float(standardiser.phi))
        return module

    def inverse(self, standardised: Tensor) -> Tensor:
        """[..., C] from the standardised space to the teacher's own: phi R^T y' + mean."""
        return standardised @ self.linear() + self.mean

    def linear(self) -> Tensor:
        """The map's linear part [C, C]."""
        return self.rotation * self.phi

    def offset(self) -> Tensor:
        """The teacher's mean in the standardised frame, R mean / phi [C]; see
        `losses.distillation.distillation_loss`."""
        return self.rotation @ self.mean / self.phi


class Student(nn.Module):
    """Encoder, projectors and standardisers.

    Attributes:
        encoder: `stage2_distill.encoder.Encoder`, [N, D].
        config: what is written to config.json.
        teachers: names of the teachers, in config order.
    """

    def __init__(self, encoder: Encoder, teachers: Mapping[str, StudentTeacher]) -> None:
        super().__init__()
        self.config = StudentConfig(encoder=encoder.config, teachers=dict(sorted(teachers.items())))
        self.encoder = encoder
        width = encoder.out_channels
        self.projectors = nn.ModuleDict(
            {_key(n): Projector(width, t.hidden, t.channels) for n, t in self.config.teachers.items()}
        )
        self.standardisers = nn.ModuleDict(
            {_key(n): StandardiserModule(t.channels) for n, t in self.config.teachers.items()}
        )

    @property
    def teachers(self) -> tuple[str, ...]:
        return tuple(self.config.teachers)

    def set_standardiser(self, name: str, standardiser: PhiSStandardiser) -> None:
        """Take over the standardiser of teacher `name`."""
        self.standardisers[_key(name)].load_state_dict(StandardiserModule.of(standardiser).state_dict())

    def translation(self, name: str, standardiser: PhiSStandardiser) -> Translation | None:
        """From `standardiser` of teacher `name`, as some store has it, to the student's own; None where they are the
        same."""
        own = self.standardiser(name)
        return standardiser.translation(own.mean.numpy(force=True), own.rotation.numpy(force=True), float(own.phi))

    def standardiser(self, name: str) -> StandardiserModule:
        """Standardiser of teacher `name`; ConfigError where the student has no such teacher."""
        self._check(name)
        standardiser = self.standardisers[_key(name)]
        assert isinstance(standardiser, StandardiserModule)
        return standardiser

    def forward(self, batch: PointBatch) -> dict[str, Tensor]:
        """Standardised features [N, C_t] of every teacher t."""
        latent = self.encoder(batch)
        return {name: self.project(name, latent) for name in self.teachers}

    def project(self, name: str, latent: Tensor) -> Tensor:
        """Standardised features [N, C] of teacher `name` from the encoder's [N, D]."""
        self._check(name)
        return self.projectors[_key(name)](latent)

    def teacher_features(self, name: str, batch: PointBatch) -> Tensor:
        """Features [N, C] in the teacher's own space (not normalised), as comparable as the teacher's with, say, its
        text encoder's.
        """
        return self.to_teacher_space(name, self.encoder(batch))

    def to_teacher_space(self, name: str, latent: Tensor) -> Tensor:
        """The same from the encoder's latent [N, D] (e.g. of `stage2_distill.encode.encode_scene`)."""
        return self.unstandardise(name, self.project(name, latent))

    def unstandardise(self, name: str, standardised: Tensor) -> Tensor:
        """Predictions [N, C] of `project` in the teacher's own space: their direction, at the teacher's `feature_norm`.

        A student in doubt predicts short features, and once the teacher's mean is added a short one is mostly that
        mean: everything would look like the commonest thing.
        """
        feature_norm = self.config.teachers[name].feature_norm or standardised.shape[-1] ** 0.5
        return self.standardiser(name).inverse(F.normalize(standardised, dim=-1) * feature_norm)

    def set_feature_norm(self, name: str, feature_norm: float) -> None:
        """Length of predictions for teacher `name`, see `unstandardise`."""
        self._check(name)
        teacher = StudentTeacher.model_validate(
            self.config.teachers[name].model_dump() | {"feature_norm": feature_norm}
        )
        self.config = self.config.model_copy(update={"teachers": {**self.config.teachers, name: teacher}})

    def _check(self, name: str) -> None:
        if name not in self.config.teachers:
            raise ConfigError(f"this student has no teacher '{name}'; it has {', '.join(self.teachers)}")


def save_student(
    student: Student, folder: str | Path, state: Mapping[str, Tensor] | None = None, notes: str = ""
) -> None:
    """Write `student` (or its tensors as in `state`, e.g. averaged weights) into `folder`.

    Each file is replaced atomically; weights come last, so that a folder with weights is complete.
    """
    folder = Path(folder)
    tensors = dict(student.state_dict() if state is None else state)
    flat = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_text_atomically(folder / "config.json", dump_config(student.config))
    write_text_atomically(folder / "README.md", model_card(student, notes))
    write_bytes_atomically(folder / "model.safetensors", save_tensors(flat))


def load_student(folder: str | Path, device: torch.device | str = "cpu") -> Student:
    """Read a folder written by `save_student`, in eval mode.

    Raises WeightsError: one line that names the file and what is wrong with it.
    """
    folder = Path(folder)
    config = read_student_config(folder)
    student = Student(Encoder(config.encoder), config.teachers)
    weights = folder / "model.safetensors"
    tensors = read_safetensors(weights)
    try:
        student.load_state_dict(tensors)
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:200]
        raise WeightsError(f"{weights}: weights do not fit config.json: {problem}") from None
    return student.to(device).eval()


def read_student_config(folder: str | Path) -> StudentConfig:
    """config.json of a student's folder; WeightsError where there is none or it is not a student's."""
    path = Path(folder) / "config.json"
    try:
        return StudentConfig.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsError(f"{path}: no such file; is {folder} a student's folder?") from None
    except (ValueError, ValidationError) as error:
        raise WeightsError(f"{path}: not a student's config ({' '.join(str(error).split())[:160]})") from None


def model_card(student: Student, notes: str) -> str:
    """README.md of a student's folder: what it is, what it eats, what it gives, how to use it."""
    encoder = student.config.encoder
    count = sum(p.numel() for p in student.encoder.parameters())
    rows = [f"| {n} | `{t.spec}` | {t.channels} | {t.fingerprint} |" for n, t in student.config.teachers.items()]
    return "\n".join(
        [
            "# Chorus student",
            "",
            f"A feed-forward 3D encoder ({encoder.name}, {count:,} parameters) and one projector per teacher.",
            "",
            f"Input: {', '.join(encoder.inputs.features)} per voxel of {encoder.inputs.grid_size:g} m, colours "
            f"{'[0, 1]' if encoder.inputs.color_range == 'unit' else '[-1, 1]'}.",
            f"Output: {student.encoder.out_channels} channels per Gaussian, and per teacher:",
            "",
            "| teacher | spec | channels | fingerprint |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            "```python",
            "from stage2_distill.student import load_student",
            'student = load_student("this/folder")',
            "```",
            "",
            notes,
        ]
    )


def _key(name: str) -> str:
    """A teacher's name as a module key, in which torch allows no dots ("%" is in no teacher's name, so this is
    reversible).
    """
    return name.replace(".", "%2E")
