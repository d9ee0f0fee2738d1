"""Student: the encoder, one projector per teacher, and what turns a projection back into the teacher's own space. Saved
as one folder.

    model.safetensors   encoder.*, projectors.<teacher>.*, standardisers.<teacher>.{mean, rotation, phi}
    config.json         everything needed to build and feed it (StudentConfig)
    README.md           model card

The folder is self-contained: it loads without the cache, the teachers or stage 1, and it can be pushed to the Hugging
Face hub as it is. `load_student` also takes files of the released Chorus (release.py) and weights by name (hub.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

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
from stage2_distill.encoder.checkpoints import is_own_folder, load_weights, read_folder_header, release_config
from stage2_distill.encoder.state_dicts import split_state
from stage2_distill.encoder.weight_files import read_published, read_safetensors
from stage2_distill.hub import Origin, WeightsSource, locate
from stage2_distill.model_card import model_card
from stage2_distill.projectors import ProjectorLayout, make_projector
from stage2_distill.release import LICENCE, release_state, release_teachers, why_not_release, write_release
from stage2_distill.settings import Space
from stage2_distill.standardiser_modules import IdentityStandardiser, StandardiserModule


class StudentTeacher(Config):
    """A teacher that the student imitates.

    Attributes:
        spec, fingerprint: which teacher it was, and the hash of its weights and settings, as recorded by stage 1, or
            `chorus_common.cache.names.UNRECORDED`.
        channels: width of its features. hidden: width of the projector's hidden layer. projector: its layout.
        space: of the projector's output, "standardised" = by PHI-S, to be mapped back; "unit" = the teacher's own,
            normalised to length 1; "plain" = the teacher's own as it is.
        text_aligned: whether `chorus_common.text.load_text_encoder(spec)` gives vectors of the same space.
        feature_norm: of predictions in the standardised space (`stage2_distill.feature_norms`); None = sqrt(channels),
            the feature norm that PHI-S gives a teacher's token.
    """

    spec: str
    fingerprint: str
    channels: int
    hidden: int
    projector: ProjectorLayout = "norm_hidden"
    space: Space = "standardised"
    text_aligned: bool = False
    feature_norm: float | None = Field(default=None, gt=0)


class StudentConfig(Config):
    """Contents of a student's config.json. origin: of the weights that it was made from, where they came from files."""

    format: Literal["chorus-student"] = "chorus-student"
    schema_version: Literal[1] = 1
    encoder: EncoderConfig
    teachers: dict[str, StudentTeacher]
    origin: Origin | None = None


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
            {_key(n): make_projector(t.projector, width, t.hidden, t.channels) for n, t in self.config.teachers.items()}
        )
        self.standardisers = nn.ModuleDict(
            {
                _key(n): StandardiserModule(t.channels)
                if t.space == "standardised"
                else IdentityStandardiser(t.channels)
                for n, t in self.config.teachers.items()
            }
        )

    @property
    def teachers(self) -> tuple[str, ...]:
        return tuple(self.config.teachers)

    def add_teachers(self, teachers: Mapping[str, StudentTeacher]) -> None:
        """Fresh heads for `teachers`, none of which it has yet, beside those that it has."""
        if not teachers:
            return
        fresh = Student(self.encoder, teachers)
        for modules in ("projectors", "standardisers"):
            both = {**dict(getattr(self, modules).items()), **dict(getattr(fresh, modules).items())}
            setattr(self, modules, nn.ModuleDict(dict(sorted(both.items()))))
        names = sorted({**self.config.teachers, **teachers}.items())
        self.config = self.config.model_copy(update={"teachers": dict(names)})

    def set_standardiser(self, name: str, standardiser: PhiSStandardiser) -> None:
        """Take over the standardiser of teacher `name`."""
        if self.config.teachers[name].space != "standardised":
            raise ConfigError(
                f"teacher '{name}' of this student is not standardised; its predictions need no standardiser"
            )
        self.standardisers[_key(name)].load_state_dict(StandardiserModule.of(standardiser).state_dict())

    def projector(self, name: str) -> nn.Module:
        """Projector of teacher `name`; ConfigError where the student has no such teacher."""
        self._check(name)
        return self.projectors[_key(name)]

    def translation(self, name: str, standardiser: PhiSStandardiser) -> Translation | None:
        """From `standardiser` of teacher `name`, as some store has it, to the student's own; None where they are the
        same."""
        own = self.standardiser(name)
        return standardiser.translation(own.mean.numpy(force=True), own.rotation.numpy(force=True), float(own.phi))

    def standardiser(self, name: str) -> StandardiserModule | IdentityStandardiser:
        """Standardiser of teacher `name`; ConfigError where the student has no such teacher."""
        self._check(name)
        standardiser = self.standardisers[_key(name)]
        assert isinstance(standardiser, StandardiserModule | IdentityStandardiser)
        return standardiser

    @property
    def source(self) -> WeightsSource | None:
        """Where the weights come from; None = from no file."""
        return self.encoder.source

    def forward(self, batch: PointBatch) -> dict[str, Tensor]:
        """Standardised features [N, C_t] of every teacher t."""
        latent = self.encoder(batch)
        return {name: self.project(name, latent) for name in self.teachers}

    def project(self, name: str, latent: Tensor) -> Tensor:
        """Standardised features [N, C] of teacher `name` from the encoder's [N, D]."""
        self._check(name)
        return self.projectors[_key(name)](latent)

    def matched(self, name: str, projected: Tensor) -> Tensor:
        """Outputs of `project` [N, C] (or means of such) as they are compared with the teacher's features: of length 1
        where the teacher's `space` is "unit", as they are elsewhere.
        """
        self._check(name)
        return F.normalize(projected.float(), dim=-1) if self.config.teachers[name].space == "unit" else projected

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
        teacher = self.config.teachers[name]
        if teacher.space == "plain":
            return standardised
        if teacher.space == "unit":
            return F.normalize(standardised, dim=-1)
        feature_norm = teacher.feature_norm or standardised.shape[-1] ** 0.5
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
    config, count = with_origin(student), sum(p.numel() for p in student.encoder.parameters())
    write_text_atomically(folder / "config.json", dump_config(config))
    write_text_atomically(folder / "README.md", model_card(config, count, notes))
    write_bytes_atomically(folder / "model.safetensors", save_tensors(flat))


def load_student(source: str | Path, device: torch.device | str = "cpu") -> Student:
    """The student of `source` in eval mode: of a folder written by `save_student`, of a file of the released Chorus, or
    of either by name (`hub.locate`: "chorus-3dgs", "hf:OWNER/REPO/FILE").

    Raises WeightsError: one line that names the file and what is wrong with it.
    """
    found = locate(source)
    if found.path.is_dir():
        student = _read_folder(found.path)
        found = replace(found, made_from=student.config.origin)
    else:
        student, found = _read_release(found)
    student.encoder.source = found
    return student.to(device).eval()


def is_student(source: str | Path) -> bool:
    """Whether `source` (as for `load_student`) is a student, and not an encoder alone. Raises WeightsError where it is
    nothing of the kind.
    """
    path = locate(source).path
    if path.is_dir():
        return is_own_folder(path) and read_folder_header(path).format == "chorus-student"
    file = read_published(path)
    return bool(split_state(file.tensors, path, file.adapter).projectors)


def export_release(student: Student, path: str | Path) -> None:
    """Write `student` as a file in the released Chorus's layout. WeightsError naming what has no place in it."""
    teachers = student.config.teachers
    problem = why_not_release(student.config.encoder, {n: (t.projector, t.space) for n, t in teachers.items()})
    if problem:
        raise WeightsError(f"this student has no place in the release's layout: {problem}; export it as 'chorus'")
    projectors = {name: student.projectors[_key(name)].state_dict() for name in teachers}
    state = release_state(student.encoder.state_dict(), projectors)
    write_release(state, with_origin(student).model_dump(mode="json"), Path(path))


def with_origin(student: Student) -> StudentConfig:
    """The student's config with the origin of its weights: as it says itself, or the file that they were read from."""
    if student.config.origin is not None or student.source is None:
        return student.config
    return student.config.model_copy(update={"origin": student.source.lineage()})


def _read_folder(folder: Path) -> Student:
    config = read_student_config(folder)
    student = Student(Encoder(config.encoder), config.teachers)
    student.config = config
    weights = folder / "model.safetensors"
    _load(student, read_safetensors(weights), f"{weights}: weights do not fit config.json")
    return student


def _read_release(found: WeightsSource) -> tuple[Student, WeightsSource]:
    path = found.path
    file = read_published(path)
    parts = split_state(file.tensors, path, file.adapter)
    if not parts.projectors:
        raise WeightsError(
            f"{found.name}: holds an encoder alone, without projectors, so it answers to no teacher; use it where an "
            "encoder will do"
        )
    try:
        if file.student is not None:  # we wrote it
            config = StudentConfig.model_validate(file.student)
        else:
            teachers = {n: StudentTeacher.model_validate(t) for n, t in release_teachers(parts, path).items()}
            config = StudentConfig(encoder=release_config(parts, path), teachers=teachers)
    except ValidationError as error:
        raise WeightsError(f"{path}: not a student's config ({' '.join(str(error).split())[:160]})") from None
    student = Student(Encoder(config.encoder), config.teachers)
    student.config = student.config.model_copy(update={"origin": config.origin})
    load_weights(student.encoder, parts.trunk, path)
    for name, tensors in parts.projectors.items():
        if name not in student.config.teachers:
            raise WeightsError(f"{path}: projector '{name}' is not in its config")
        _load(student.projectors[_key(name)], tensors, f"{path}: projector '{name}' does not fit")
    if lacking := [name for name in student.teachers if name not in parts.projectors]:
        raise WeightsError(f"{path}: has no projector '{lacking[0]}'")
    return student, found if found.licence else replace(found, licence=LICENCE)


def _load(module: nn.Module, tensors: Mapping[str, Tensor], problem: str) -> None:
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise WeightsError(f"{problem}: {' '.join(str(error).split())[:200]}") from None


def read_student_config(folder: str | Path) -> StudentConfig:
    """config.json of a student's folder; WeightsError where there is none or it is not a student's."""
    path = Path(folder) / "config.json"
    try:
        return StudentConfig.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsError(f"{path}: no such file; is {folder} a student's folder?") from None
    except (ValueError, ValidationError) as error:
        raise WeightsError(f"{path}: not a student's config ({' '.join(str(error).split())[:160]})") from None


def _key(name: str) -> str:
    """A teacher's name as a module key, in which torch allows no dots ("%" is in no teacher's name, so this is
    reversible).
    """
    return name.replace(".", "%2E")
