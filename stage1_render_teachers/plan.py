"""What a run will ask of every scene, settled once before any work: teachers, their fingerprints and their
standardisers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from chorus_common.cache.names import UNRECORDED
from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.runtime.errors import CacheError, ConfigError
from chorus_common.runtime.processes import in_child
from chorus_common.runtime.store_path import StorePath
from stage1_render_teachers.settings import RunConfig, Stage1Config
from stage1_render_teachers.teachers import DenseTeacher, Teacher, build_teacher, teacher_name
from stage1_render_teachers.teachers.mask_embeddings import mask_embedder
from stage1_render_teachers.teachers.protocol import split_name
from stage1_render_teachers.views.render_views import config_grid


@dataclass(frozen=True)
class TeacherFacts:
    """What a run must know of a teacher before any work.

    Attributes:
        spec, name: as given (SPEC, or NAME=SPEC), and as files are called.
        dense: dense features (with a standardiser) or masks (without).
        fingerprint: of its weights and settings.
    """

    spec: str
    name: str
    dense: bool
    fingerprint: str


@dataclass(frozen=True)
class TeacherPlan:
    """One teacher of a run.

    Attributes:
        spec, name: as given (SPEC, or NAME=SPEC), and as files are called.
        dense: dense features (with a standardiser) or masks (without).
        fingerprint: of its weights and settings.
        standardiser: fingerprint of the teacher's standardiser, "" for mask teachers.
    """

    spec: str
    name: str
    dense: bool
    fingerprint: str
    standardiser: str = ""


def standardiser_path(store: StorePath, name: str) -> StorePath:
    """Where the standardiser of the dense teacher that is called `name` lies."""
    return store / "standardisers" / f"{name}.safetensors"


@lru_cache(maxsize=16)
def shared_teacher(spec: str, device: str) -> Teacher:
    """The teacher `spec`, built once per process."""
    return build_teacher(split_name(spec)[1], device)


@lru_cache(maxsize=16)
def _load_standardiser(path: StorePath, fingerprint: str) -> PhiSStandardiser:
    standardiser = PhiSStandardiser.load(path)
    if standardiser.fingerprint != fingerprint:
        raise CacheError(
            f"{path}: the standardiser was replaced while this run was going on; run the same command again"
        )
    return standardiser


def load_standardiser(store: StorePath, plan: TeacherPlan) -> PhiSStandardiser:
    """The standardiser that `plan` was made with, read once per process."""
    return _load_standardiser(standardiser_path(store, plan.name), plan.standardiser)


def first_text_aligned(teachers: Iterable[Teacher]) -> DenseTeacher | None:
    """The teacher whose space the embeddings of masks lie in: the first text-aligned one, None where there is none."""
    return next((teacher for teacher in teachers if isinstance(teacher, DenseTeacher) and teacher.text_aligned), None)


def teacher_facts(config: Stage1Config, run: RunConfig) -> tuple[TeacherFacts, ...]:
    """The teachers of `config`, each built once to prove that it can be.

    They are built in a process of their own where workers will do the work: a client that kept them would hold their
    weights and libraries, gigabytes of them, for as long as the run takes.

    Raises ConfigError for an unknown teacher or one that cannot embed masks as asked, WeightsError where weights are
    missing or do not fit.
    """
    if run.works_here:
        return describe_teachers(config, run.device)
    return in_child(describe_teachers, config, "cpu")  # a login node has no GPU, and workers need all of its memory


def describe_teachers(config: Stage1Config, device: str) -> tuple[TeacherFacts, ...]:
    """Build the teachers of `config` on `device` and say what they are; see `teacher_facts`."""
    teachers = [shared_teacher(spec, device) for spec in config.teachers]
    text_teacher = first_text_aligned(teachers)
    if text_teacher is not None and not all(isinstance(teacher, DenseTeacher) for teacher in teachers):
        mask_embedder(config.mask_embeddings, text_teacher, config_grid(config))
    return tuple(
        TeacherFacts(spec, teacher_name(spec), isinstance(teacher, DenseTeacher), teacher.fingerprint)
        for spec, teacher in zip(config.teachers, teachers)
    )


def plan_teachers(store: StorePath, teachers: Iterable[TeacherFacts]) -> tuple[TeacherPlan, ...]:
    """`teachers` with their standardisers under `store`.

    Raises ConfigError for one that differs from what its standardiser was fitted on, CacheError where a standardiser is
    missing (calibrate first) or damaged.
    """
    plans = []
    for teacher in teachers:
        fitted = ""
        if teacher.dense:
            path = standardiser_path(store, teacher.name)
            if not path.is_file():
                raise CacheError(
                    f"{path}: no standardiser of teacher '{teacher.spec}' yet; run chorus-stage1 calibrate"
                )
            standardiser = PhiSStandardiser.load(path)
            # one that was fitted on imported features takes the teacher's spec at its word
            if standardiser.teacher_fingerprint not in (UNRECORDED, teacher.fingerprint):
                raise ConfigError(
                    f"teacher '{teacher.spec}' is not the one that {path} was fitted on (fingerprint "
                    f"{teacher.fingerprint} against {standardiser.teacher_fingerprint}); use another --store, "
                    "or calibrate --overwrite and run --overwrite"
                )
            fitted = standardiser.fingerprint
        plans.append(TeacherPlan(teacher.spec, teacher.name, teacher.dense, teacher.fingerprint, fitted))
    return tuple(plans)


@contextmanager
def teacher_threads(threads: int) -> Iterator[None]:
    """Run neural teachers with a fixed number of CPU threads, so that their sums do not depend on where they run."""
    if "torch" not in sys.modules:  # no neural teacher was built
        yield
        return
    from chorus_common.runtime.devices import torch_threads

    with torch_threads(threads):
        yield
