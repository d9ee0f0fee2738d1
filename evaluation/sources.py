"""From what a user gives (an encoder, feature files, a store) to feature sources and the text encoder they answer
to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.runtime.errors import CacheError, ConfigError
from chorus_common.runtime.store_path import StorePath
from chorus_common.text import TextEncoder, load_text_encoder
from chorus_common.text.embedding_file import EmbeddingFile
from chorus_common.text.encoders import is_text_side
from evaluation.features import (
    EncoderFeatures,
    FeatureFiles,
    FeatureSource,
    LiftedTeacher,
    StudentFeatures,
    check_pair,
    text_aligned_teacher,
)
from evaluation.scenes import EvalScene, Selection
from evaluation.tasks.probe import random_twin
from stage2_distill.encoder import Encoder, load_encoder
from stage2_distill.hub import locate
from stage2_distill.student import Student, is_student, load_student


@dataclass(frozen=True)
class SourceOptions:
    """What features are asked for.

    Attributes:
        encoder: a student (a folder of ours, a released Chorus, or a name), or any encoder checkpoint whose output
            lives in the space of `text`.
        random: add the same architecture with random weights of `seed`.
        features: folder of <scene id>.npy. lifted: add the teacher's own features, lifted from the cache; None = where
            there is a cache.
        teacher: name of the text-aligned teacher, where there are several. text: spec of the text encoder, where
            neither a student nor a cache tells (published encoders, feature files); for a student another copy of its
            own text side. text_embeddings: a file of vectors in place of the text encoder.
        tta_rotations: yaw angles that an encoder sees a scene at (`stage2_distill.tta`).
    """

    encoder: Path | None = None
    random: bool = False
    features: StorePath | None = None
    lifted: bool | None = False
    teacher: str | None = None
    text: str | None = None
    text_embeddings: Path | None = None
    device: str = "cpu"
    seed: int = 0
    tta_rotations: int = 1

    @property
    def given(self) -> bool:
        """Whether any features are asked for."""
        return self.encoder is not None or self.features is not None or bool(self.lifted)

    def inputs(self) -> dict[str, Any]:
        """For a result file."""
        origin = None if self.encoder is None else locate(self.encoder).origin()
        return {
            "encoder": None if self.encoder is None else str(self.encoder),
            "encoder_weights": None if origin is None else origin.model_dump(),
            "features": None if self.features is None else str(self.features),
            "seed": self.seed,
            "tta_rotations": self.tta_rotations,
        }


@dataclass(frozen=True)
class TextSources:
    """Feature sources by row name, all in the space of `text_encoder`; `teacher`: name of the teacher, or ""."""

    sources: dict[str, FeatureSource]
    text_encoder: TextEncoder
    teacher: str

    def inputs(self) -> dict[str, Any]:
        """For a result file: whose text space it is."""
        return {"teacher": self.teacher, "text_encoder": self.text_encoder.spec}


def text_sources(options: SourceOptions, selection: Selection) -> TextSources:
    """The sources that `options` ask for: student (and random), features, lifted_teacher.

    Raises ConfigError, one line, where they do not share one text-aligned space or nothing is asked for.
    """
    if options.text is not None and options.text_embeddings is not None:
        raise ConfigError("--text and --text-embeddings both name a text side; give one of them")
    embeddings = None if options.text_embeddings is None else EmbeddingFile(options.text_embeddings)
    lifted = options.lifted if options.lifted is not None else selection.scenes[0].store is not None
    if options.lifted and selection.scenes[0].store is None:
        raise ConfigError(
            f"{selection.scenes[0].name}: the lifted teacher lives in the cache of a store; none is given"
        )
    cached = _cached_specs(selection.scenes) if options.encoder is None or lifted else {}
    sources: dict[str, FeatureSource] = {}
    if options.random and options.encoder is None:
        raise ConfigError("--random needs --encoder: it takes its architecture")
    student = None
    if options.encoder is not None and is_student(options.encoder):
        student = load_student(options.encoder, options.device)
    if options.text is not None and student is None:
        cached = {name: spec for name, spec in cached.items() if spec == options.text}
    if student is not None:
        name, text_encoder = _student_text(student, options, embeddings)
        _check_width(text_encoder, student.config.teachers[name].channels, f"teacher '{name}' of {options.encoder}")
        check_pair(name, student.config.teachers[name].fingerprint, text_encoder)
        sources["student"] = StudentFeatures(student, name, options.tta_rotations)
        if options.random:
            sources["random"] = StudentFeatures(random_student(student, options.seed), name, options.tta_rotations)
        if lifted and cached.get(name) != student.config.teachers[name].spec:
            raise ConfigError(
                f"{selection.scenes[0].store}: teacher '{name}' is {cached.get(name, 'absent')} here, the student's is "
                f"{student.config.teachers[name].spec}; use --no-lifted"
            )
    elif options.encoder is not None:
        if options.text is None and embeddings is None:
            raise ConfigError(
                f"{options.encoder}: an encoder without projectors does not say whose text space it answers to; "
                "give --text SPEC or --text-embeddings FILE"
            )
        name, text_encoder = "", embeddings or load_text_encoder(options.text or "")
        encoder = load_encoder(options.encoder).to(options.device)
        _check_width(text_encoder, encoder.out_channels, str(options.encoder))
        sources["student"] = EncoderFeatures(encoder, options.tta_rotations)
        if options.random:
            sources["random"] = EncoderFeatures(random_twin(encoder, options.seed), options.tta_rotations)
    elif embeddings is not None and not lifted:
        name, text_encoder = "", embeddings
    elif options.text is not None and not lifted:
        name, text_encoder = "", load_text_encoder(options.text)
    else:
        name, text_encoder = text_aligned_teacher(cached, options.teacher, embeddings)
    if options.features is not None:
        sources["features"] = FeatureFiles(options.features, text_encoder.channels)
    if lifted:
        sources["lifted_teacher"] = lifted_teacher(selection.scenes[0], name, text_encoder)
    if not sources:
        raise ConfigError("nothing to evaluate; give --encoder, --features or --lifted")
    return TextSources(sources, text_encoder, name)


def _student_text(
    student: Student, options: SourceOptions, embeddings: EmbeddingFile | None
) -> tuple[str, TextEncoder]:
    """The teacher to ask and its text side: the teacher's own, one of the same weights that --text names, or a file."""
    teachers, who = student.config.teachers, options.encoder
    if embeddings is not None:
        specs = {n: t.spec for n, t in teachers.items() if t.text_aligned or n == options.teacher}
        if not specs and options.teacher is None:  # of widths that are not the published ones
            specs = {n: t.spec for n, t in teachers.items() if t.channels == embeddings.channels}
        if not specs and options.teacher is None:
            widths = ", ".join(f"{n} {t.channels}" for n, t in teachers.items())
            raise ConfigError(
                f"{who}: no teacher has the {embeddings.channels} channels of {embeddings.spec} ({widths})"
            )
        return text_aligned_teacher(specs, options.teacher, embeddings)
    if options.text is None:
        return text_aligned_teacher({n: t.spec for n, t in teachers.items()}, options.teacher)
    wanted = {n: t.spec for n, t in teachers.items() if options.teacher in (None, n)}
    fits = [n for n, spec in wanted.items() if is_text_side(options.text, spec)]
    if not fits:
        known = ", ".join(f"{n}: {spec}" for n, spec in (wanted or {n: t.spec for n, t in teachers.items()}).items())
        raise ConfigError(f"{who}: --text {options.text} is no text side of its teachers ({known})")
    return fits[0], load_text_encoder(options.text)


def one_source(options: SourceOptions, selection: Selection) -> tuple[str, FeatureSource, TextEncoder]:
    """(name, source, text encoder) of the one source that `options` ask for; ConfigError where there are several."""
    found = text_sources(options, selection)
    if len(found.sources) != 1:
        raise ConfigError(f"one kind of features at a time, not {', '.join(found.sources)}")
    name, source = next(iter(found.sources.items()))
    return name, source, found.text_encoder


def output_sources(options: SourceOptions, name: str, first: EvalScene | None = None) -> dict[str, FeatureSource]:
    """Sources that need no text: an encoder's own output as `name`, its random twin, files, and the teacher
    `options.teacher` of the cache that `first` lies in, lifted.
    """
    sources: dict[str, FeatureSource] = {}
    if options.encoder is not None:
        trained = load_any_encoder(options.encoder, options.device)
        sources[name] = EncoderFeatures(trained, options.tta_rotations)
        if options.random:
            sources["random"] = EncoderFeatures(random_twin(trained, options.seed), options.tta_rotations)
    if options.features is not None:
        sources["features"] = FeatureFiles(options.features, None)
    if first is not None and options.teacher is not None:
        if first.store is None:
            raise ConfigError(f"--teacher {options.teacher}: a lifted teacher lives in a store; give --store")
        sources["lifted_teacher"] = lifted_teacher(first, options.teacher)
    if not sources:
        known = "--encoder or --features" if first is None else "--encoder, --features or --teacher"
        raise ConfigError(f"nothing to evaluate; give {known}")
    return sources


def load_any_encoder(source: str | Path, device: str) -> Encoder:
    """The encoder of a student or of any checkpoint, by path or by name."""
    return load_encoder(source).to(device).eval()


def random_student(student: Student, seed: int) -> Student:
    """The same architecture, projectors included, with random weights of `seed`; the teachers' standardisers are
    kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin = Student(Encoder(student.config.encoder), student.config.teachers)
    for name in student.teachers:
        twin.standardiser(name).load_state_dict(student.standardiser(name).state_dict())
    return twin.to(next(student.parameters()).device).eval()


def _check_width(text_encoder: TextEncoder, channels: int, who: str) -> None:
    if text_encoder.channels != channels:
        raise ConfigError(f"{who}: gives {channels} channels, text side {text_encoder.spec} {text_encoder.channels}")


def _cached_specs(scenes: Sequence[EvalScene]) -> dict[str, str]:
    """Teacher -> spec of the first scene's cache; none without a store."""
    first = scenes[0]
    if first.store is None:
        return {}
    return {name: teacher.spec for name, teacher in first.open().dense_teachers.items()}


def lifted_teacher(first: EvalScene, name: str, text_encoder: TextEncoder | None = None) -> LiftedTeacher:
    """The teacher `name` of the cache that `first` lies in. text_encoder: the text side that it must be a pair with."""
    assert first.store is not None, "refused before"
    cache = first.open()
    if name not in cache.dense_teachers:
        raise CacheError(f"cache {cache.path}: no dense teacher '{name}'; it has {', '.join(cache.dense_teachers)}")
    if text_encoder is not None:
        check_pair(name, cache.dense_teachers[name].fingerprint, text_encoder)
    return LiftedTeacher(name, PhiSStandardiser.load(first.store / "standardisers" / f"{name}.safetensors"))
