"""Whose features are asked when the query is a place or a picture, and a picture as such a query.

A place needs features and nothing else. A picture needs the teacher that a head was trained on; 2D models live in
stage 1 alone, so its program encodes the picture in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chorus_common.features.picture_vector import SUFFIX, PictureVector
from chorus_common.runtime.errors import ConfigError
from evaluation.features import EncoderFeatures, FeatureFiles, FeatureSource, StudentFeatures
from evaluation.scenes import Selection
from evaluation.sources import SourceOptions, lifted_teacher, load_any_encoder
from stage2_distill.release import UNRECORDED
from stage2_distill.student import is_student, load_student


@dataclass(frozen=True)
class Head:
    """row: what the features are called; teacher: name of the head, spec and fingerprint of its teacher, "" where
    nothing tells.
    """

    row: str
    source: FeatureSource
    teacher: str = ""
    spec: str = ""
    fingerprint: str = ""


class _Teacher(Protocol):
    """What a student's config and a cache both say of a teacher."""

    @property
    def spec(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def text_aligned(self) -> bool: ...


def one_head(options: SourceOptions, selection: Selection, *, picture: bool) -> Head:
    """The one head that `options` ask for: `--teacher`, or for a picture the first that is not text-aligned, for a
    place the first that is (as for words), or the first at all.

    Raises ConfigError, one line, where several sources or none are asked for, or there is no such head.
    """
    if options.text is not None or options.text_embeddings is not None:
        raise ConfigError("--text and --text-embeddings say how words are read; a place or a picture needs neither")
    asked = [options.encoder is not None, options.features is not None, bool(options.lifted)]
    if sum(asked) != 1 or options.random:
        raise ConfigError("a place or a picture is asked of one of --encoder, --features and --lifted")
    if options.features is not None:
        return Head("features", FeatureFiles(options.features, None))
    if options.lifted:
        first = selection.scenes[0]
        teachers = {} if first.store is None else first.open().dense_teachers
        name = _pick(teachers, options.teacher, picture, str(first.store or first.name))
        return Head(
            "lifted_teacher", lifted_teacher(first, name), name, teachers[name].spec, teachers[name].fingerprint
        )
    assert options.encoder is not None, "one of the three"
    if not is_student(options.encoder):
        encoder = load_any_encoder(options.encoder, options.device)
        return Head("encoder", EncoderFeatures(encoder, options.tta_rotations))
    student = load_student(options.encoder, options.device)
    known = student.config.teachers
    name = _pick(known, options.teacher, picture, str(options.encoder))
    source = StudentFeatures(student, name, options.tta_rotations)
    return Head("student", source, name, known[name].spec, known[name].fingerprint)


def _pick(teachers: Mapping[str, _Teacher], wanted: str | None, picture: bool, who: str) -> str:
    names = ", ".join(teachers) or "none"
    if wanted is not None:
        if wanted not in teachers:
            raise ConfigError(f"{who}: no teacher '{wanted}'; it has {names}")
        return wanted
    first = [name for name in sorted(teachers) if teachers[name].text_aligned != picture]
    if picture and not first:
        raise ConfigError(
            f"{who}: has no generalist head to ask with a picture (its teachers: {names}); --teacher takes another"
        )
    if not teachers:
        raise ConfigError(f"{who}: has no teacher whose features could be asked")
    return first[0] if first else min(teachers)


def picture_vector(picture: Path, head: Head, device: str) -> PictureVector:
    """`picture` in the space of `head`: a file of `chorus-stage1 embed`, or a picture, which that program now encodes.

    Raises ConfigError, one line, where the head says no teacher, the teacher cannot look at it, or the vector is of
    another teacher's space.
    """
    if picture.suffix == SUFFIX:
        found = PictureVector.load(picture)
    elif not picture.is_file():
        raise ConfigError(f"{picture}: no such picture")
    elif not head.spec:
        raise ConfigError(
            f"--like-image: the {head.row} does not say which teacher its features answer to; "
            f"encode the picture with chorus-stage1 embed, and give its {SUFFIX}"
        )
    else:
        found = _encoded(picture, head.spec, device)
    if head.spec and found.spec != head.spec:
        raise ConfigError(f"{picture}: was encoded by {found.spec}; head '{head.teacher}' answers to {head.spec}")
    if head.fingerprint not in ("", UNRECORDED) and found.fingerprint != head.fingerprint:
        raise ConfigError(
            f"{picture}: was encoded by other weights of {found.spec} ({found.fingerprint}) than head "
            f"'{head.teacher}' was trained on ({head.fingerprint})"
        )
    return found


def _encoded(picture: Path, spec: str, device: str) -> PictureVector:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, f"picture{SUFFIX}")
        program = [sys.executable, "-m", "stage1_render_teachers.cli", "embed", str(picture.resolve())]
        done = subprocess.run(
            [*program, "--teacher", spec, "--device", device, "--out", str(out)], capture_output=True, text=True
        )
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise ConfigError(f"--like-image: {said[-1].removeprefix('error: ') if said else 'stage 1 did not answer'}")
        return PictureVector.load(out)
