"""What a run starts with: a fresh encoder, published weights, or a trained student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chorus_common.cache.names import UNRECORDED
from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.runtime.errors import ConfigError
from stage2_distill.data.dataset import SceneEntry
from stage2_distill.data.target_space import TargetSpace
from stage2_distill.encoder import Encoder, build_encoder, load_encoder
from stage2_distill.settings import EncoderSettings, TeacherSettings, TrainConfig
from stage2_distill.student import Student, StudentTeacher, load_student, with_origin


@dataclass(frozen=True)
class TrainData:
    """What a run learns from: scenes to train on, scenes to validate on (may be empty), and the standardisers of the
    teachers it matches.
    """

    scenes: Sequence[SceneEntry]
    validation: Sequence[SceneEntry]
    standardisers: Mapping[str, PhiSStandardiser]
    text_aligned: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Start:
    """What a run starts with.

    Attributes:
        student: as it begins. standardisers: of the teachers that it learns from, as the stores have them.
        joined: those of its teachers whose heads are fresh beside trained ones.
    """

    student: Student
    standardisers: dict[str, PhiSStandardiser]
    joined: tuple[str, ...] = ()


def make_encoder(settings: EncoderSettings) -> Encoder:
    """The encoder that is asked for, fresh from torch's generator or from a checkpoint."""
    if settings.weights:
        if settings.overrides:
            raise ConfigError("encoder.weights brings its own architecture; remove encoder.overrides")
        return load_encoder(settings.weights)
    return build_encoder(settings.preset, **settings.overrides)


def make_student(config: TrainConfig, data: TrainData) -> Start:
    """The student that a run starts with, and the teachers that it learns from.

    A trained student (`config.student`) keeps all its heads and their standardisers, gets a fresh head for each teacher
    that the config names and it lacks, and learns from those of its teachers that the scenes have. ConfigError where
    there is none, where one is another teacher of that name, or is asked for in another space than the student's.
    """
    if not config.student:
        student = Student(make_encoder(config.encoder), _fresh_teachers(data.standardisers, config, data.text_aligned))
        student.config = with_origin(student)
        _take_standardisers(student, data.standardisers)
        return Start(student, dict(data.standardisers))
    student = load_student(config.student)
    student.config = with_origin(student)
    lacking = [n for n in config.teachers if n not in student.teachers]
    joining = {n: data.standardisers[n] for n in lacking if n in data.standardisers}
    if len(joining) < len(lacking):
        student.standardiser(next(n for n in lacking if n not in joining))  # says what it has
    student.add_teachers(_fresh_teachers(joining, config, data.text_aligned))
    _take_standardisers(student, joining)
    standardisers = {
        name: standardiser for name, standardiser in data.standardisers.items() if name in student.teachers
    }
    if not standardisers:
        raise ConfigError(
            f"{config.student}: the student's teachers are {', '.join(student.teachers)}, the scenes' are "
            f"{', '.join(data.standardisers)}; make the scenes' cache with one of the student's teachers"
        )
    for name, standardiser in standardisers.items():
        space = student.config.teachers[name].space
        asked = config.teachers[name].space if name in config.teachers else None
        if asked not in (None, space):
            raise ConfigError(
                f"{config.student}: teachers.{name}.space is '{asked}', the student's head is '{space}'; leave it out"
            )
        if student.config.teachers[name].fingerprint not in (UNRECORDED, standardiser.teacher_fingerprint):
            raise ConfigError(
                f"{config.student}: teacher '{name}' of the student is not the one of the scenes "
                f"({student.config.teachers[name].fingerprint}, {standardiser.teacher_fingerprint}); "
                "use the same weights"
            )
    return Start(student, standardisers, tuple(joining))


def target_space(student: Student, name: str, standardiser: PhiSStandardiser, settings: TeacherSettings) -> TargetSpace:
    """From targets of teacher `name`, as stores with `standardiser` have them, to what its head is compared with."""
    own = student.standardiser(name)
    return TargetSpace(
        student.translation(name, standardiser),
        own.offset().detach().cpu(),
        float(own.phi),
        unit=student.config.teachers[name].space == "unit",
        min_norm=settings.min_norm,
    )


def _take_standardisers(student: Student, standardisers: Mapping[str, PhiSStandardiser]) -> None:
    for name, standardiser in standardisers.items():
        if student.config.teachers[name].space == "standardised":
            student.set_standardiser(name, standardiser)


def _fresh_teachers(
    standardisers: Mapping[str, PhiSStandardiser], config: TrainConfig, text_aligned: frozenset[str]
) -> dict[str, StudentTeacher]:
    return {
        name: StudentTeacher(
            spec=standardiser.spec,
            fingerprint=standardiser.teacher_fingerprint,
            channels=standardiser.channels,
            hidden=config.projector_hidden,
            projector=config.projector_layout,
            space=config.teachers.get(name, TeacherSettings()).space or "standardised",
            text_aligned=name in text_aligned,
        )
        for name, standardiser in standardisers.items()
    }
