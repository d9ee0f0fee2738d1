"""What a run will ask of every scene, settled once before any work: teachers, their fingerprints and their bases."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from chorus_common.features.standardise import TeacherBasis
from chorus_common.runtime.errors import CacheError, ConfigError
from chorus_common.runtime.store_path import Place
from stage1_render_teachers.settings import Stage1Config
from stage1_render_teachers.teachers import DenseTeacher, Teacher, build_teacher, teacher_name
from stage1_render_teachers.teachers.mask_embeddings import mask_embedder
from stage1_render_teachers.views.render_views import config_grid


@dataclass(frozen=True)
class TeacherPlan:
    """One teacher of a run.

    Attributes:
        spec, name: as given, and as files are called.
        dense: dense features (with a basis) or masks (without).
        fingerprint: of its weights and settings.
        basis: fingerprint of the teacher's basis, "" for mask teachers.
    """

    spec: str
    name: str
    dense: bool
    fingerprint: str
    basis: str = ""


def basis_path(store: Place, spec: str) -> Place:
    """Where the basis of a dense teacher lies."""
    return store / "bases" / f"{teacher_name(spec)}.safetensors"


@lru_cache(maxsize=16)
def shared_teacher(spec: str, device: str) -> Teacher:
    """The teacher `spec`, built once per process."""
    return build_teacher(spec, device)


@lru_cache(maxsize=16)
def _load_basis(path: Place, fingerprint: str) -> TeacherBasis:
    basis = TeacherBasis.load(path)
    if basis.fingerprint != fingerprint:
        raise CacheError(f"{path}: the basis was replaced while this run was going on; run the same command again")
    return basis


def load_basis(store: Place, plan: TeacherPlan) -> TeacherBasis:
    """The basis that `plan` was made with, read once per process."""
    return _load_basis(basis_path(store, plan.spec), plan.basis)


def first_text_aligned(teachers: Iterable[Teacher]) -> DenseTeacher | None:
    """The teacher whose space the embeddings of masks lie in: the first text-aligned one, None where there is none."""
    return next((teacher for teacher in teachers if isinstance(teacher, DenseTeacher) and teacher.text_aligned), None)


def plan_teachers(store: Place, config: Stage1Config, device: str) -> tuple[TeacherPlan, ...]:
    """The teachers of `config`, built once to prove that they can be, and their bases under `store`.

    Raises ConfigError for an unknown teacher, one that differs from what its basis was fitted on, or one that cannot
    embed masks as asked; CacheError where a basis is missing (calibrate first) or damaged.
    """
    plans = []
    teachers = [shared_teacher(spec, device) for spec in config.teachers]
    speaker = first_text_aligned(teachers)
    if speaker is not None and not all(isinstance(teacher, DenseTeacher) for teacher in teachers):
        mask_embedder(config.mask_embeddings, speaker, config_grid(config))
    for spec, teacher in zip(config.teachers, teachers):
        if not isinstance(teacher, DenseTeacher):
            plans.append(TeacherPlan(spec, teacher_name(spec), False, teacher.fingerprint))
            continue
        path = basis_path(store, spec)
        if not path.is_file():
            raise CacheError(f"{path}: no basis of teacher '{spec}' yet; run chorus-stage1 calibrate")
        basis = TeacherBasis.load(path)
        if basis.teacher_fingerprint != teacher.fingerprint:
            raise ConfigError(
                f"teacher '{spec}' is not the one that {path} was fitted on (fingerprint {teacher.fingerprint} against "
                f"{basis.teacher_fingerprint}); use another --store, or calibrate --overwrite and run --overwrite"
            )
        plans.append(TeacherPlan(spec, teacher_name(spec), True, teacher.fingerprint, basis.fingerprint))
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
