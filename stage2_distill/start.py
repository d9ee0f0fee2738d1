"""What a run starts with: a fresh encoder, published weights, or a trained student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chorus_common.cache.names import UNRECORDED
from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.runtime.errors import ConfigError
from stage2_distill.data.dataset import SceneEntry
from stage2_distill.encoder import Encoder, build_encoder, load_encoder
from stage2_distill.settings import EncoderSettings, TrainConfig
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


def make_encoder(settings: EncoderSettings) -> Encoder:
    """The encoder that is asked for, fresh from torch's generator or from a checkpoint."""
    if settings.weights:
        if settings.overrides:
            raise ConfigError("encoder.weights brings its own architecture; remove encoder.overrides")
        return load_encoder(settings.weights)
    return build_encoder(settings.preset, **settings.overrides)


def make_student(config: TrainConfig, data: TrainData) -> tuple[Student, dict[str, PhiSStandardiser]]:
    """The student that a run starts with, and the standardisers of the teachers that it learns from.

    A trained student (`config.student`) keeps all its heads and their standardisers, and learns from those of its
    teachers that the scenes have. ConfigError where there is none, or one is another teacher of that name.
    """
    if not config.student:
        student = Student(make_encoder(config.encoder), _student_teachers(data, config))
        student.config = with_origin(student)
        for name, standardiser in data.standardisers.items():
            student.set_standardiser(name, standardiser)
        return student, dict(data.standardisers)
    student = load_student(config.student)
    student.config = with_origin(student)
    unknown = [n for n in config.teachers if n not in student.teachers]
    if unknown:
        student.standardiser(unknown[0])  # says what it has
    standardisers = {
        name: standardiser for name, standardiser in data.standardisers.items() if name in student.teachers
    }
    if not standardisers:
        raise ConfigError(
            f"{config.student}: the student's teachers are {', '.join(student.teachers)}, the scenes' are "
            f"{', '.join(data.standardisers)}; make the scenes' cache with one of the student's teachers"
        )
    for name, standardiser in standardisers.items():
        if student.config.teachers[name].fingerprint not in (UNRECORDED, standardiser.teacher_fingerprint):
            raise ConfigError(
                f"{config.student}: teacher '{name}' of the student is not the one of the scenes "
                f"({student.config.teachers[name].fingerprint}, {standardiser.teacher_fingerprint}); "
                "use the same weights"
            )
    return student, standardisers


def _student_teachers(data: TrainData, config: TrainConfig) -> dict[str, StudentTeacher]:
    return {
        name: StudentTeacher(
            spec=standardiser.spec,
            fingerprint=standardiser.teacher_fingerprint,
            channels=standardiser.channels,
            hidden=config.projector_hidden,
            projector=config.projector_layout,
            text_aligned=name in data.text_aligned,
        )
        for name, standardiser in data.standardisers.items()
    }
