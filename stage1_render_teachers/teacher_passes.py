"""Teachers at work on one scene: batches of views in, standardised codes or masks out to the scene's writer."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from chorus_common.cache import EmbeddingSource, SceneCacheWriter
from chorus_common.runtime.errors import CacheError, SceneError
from chorus_common.runtime.store_path import StorePath
from stage1_render_teachers.fidelity import Fidelity
from stage1_render_teachers.plan import TeacherPlan, first_text_aligned, load_standardiser, shared_teacher
from stage1_render_teachers.settings import Stage1Config
from stage1_render_teachers.teachers import DenseTeacher, MaskTeacher
from stage1_render_teachers.teachers.mask_embeddings import mask_embedder
from stage1_render_teachers.teachers.protocol import split_name
from stage1_render_teachers.views.render_views import ViewBatch, config_grid
from stage1_render_teachers.views.surfaces import SceneSurfaces

F32 = NDArray[np.float32]
Watch = Callable[[str], AbstractContextManager[None]]


class TeacherPass(Protocol):
    """One teacher on one scene."""

    name: str

    def add(self, batch: ViewBatch, tokens: dict[str, F32], watch: Watch) -> Callable[[], None]:
        """Look at the next views; what is returned stores what was seen, and must be called in the order of the views.

        `tokens`: name -> raw dense features [B, rows, cols, C] of this batch, for later passes.
        """
        ...

    def finish(self) -> dict[str, float]:
        """Write what is left; figures measured on the way."""
        ...


def open_passes(
    writer: SceneCacheWriter, plans: Sequence[TeacherPlan], store: StorePath, config: Stage1Config, device: str,
    n_gaussians: int, surfaces: SceneSurfaces,
) -> list[TeacherPass]:  # fmt: skip
    """A pass per teacher, dense ones first: masks are given embeddings by the first text-aligned one."""
    dense: list[TeacherPass] = []
    masks: list[TeacherPass] = []
    teachers = []
    for plan in plans:
        teacher = shared_teacher(plan.spec, device)
        if teacher.fingerprint != plan.fingerprint:
            raise CacheError(
                f"teacher '{plan.spec}' has fingerprint {teacher.fingerprint} on this worker, the run was planned with "
                f"{plan.fingerprint}; install the same version and weights everywhere"
            )
        teachers.append(teacher)
    text_teacher = first_text_aligned(teachers)
    text_name = next((plan.name for plan, teacher in zip(plans, teachers) if teacher is text_teacher), "")
    for plan, teacher in zip(plans, teachers):
        if isinstance(teacher, DenseTeacher):
            dense.append(DensePass(writer, plan, teacher, store, config, n_gaussians))
        else:
            masks.append(MaskPass(writer, plan, teacher, config, text_teacher, text_name, surfaces))
    return dense + masks


class DensePass:
    """Features -> standardised -> codes; measures what storing them costs after lifting."""

    def __init__(
        self, writer: SceneCacheWriter, plan: TeacherPlan, teacher: DenseTeacher, store: StorePath,
        config: Stage1Config, n_gaussians: int,
    ) -> None:  # fmt: skip
        self.name = plan.name
        self._teacher, self._standardiser, self._grid = teacher, load_standardiser(store, plan), config_grid(config)
        self._fidelity = Fidelity(n_gaussians, teacher.channels, config.error_sample, config.seed)
        self._out = writer.add_dense_teacher(
            plan.name,
            spec=split_name(plan.spec)[1],
            fingerprint=plan.fingerprint,
            channels=teacher.channels,
            standardiser=plan.standardiser,
            bits=config.bits,
            text_aligned=teacher.text_aligned,
        )

    def add(self, batch: ViewBatch, tokens: dict[str, F32], watch: Watch) -> Callable[[], None]:
        grid, channels = self._grid, self._teacher.channels
        with watch(self.name):
            features = self._teacher.features(batch.images, grid)
        expected = (len(batch.views), grid.rows, grid.cols, channels)
        if features.shape != expected:
            raise SceneError(f"teacher {self.name} gave features of shape {features.shape}, expected {expected}")
        if not np.isfinite(features).all():
            raise SceneError(f"teacher {self.name} gave values that are not finite")
        tokens[self.name] = features
        return partial(self._store, batch, features, watch)

    def _store(self, batch: ViewBatch, features: F32, watch: Watch) -> None:
        with watch("standardise"):
            standardised = self._standardiser.forward(features)
        with watch("quantise"):
            stored = self._out.append(standardised)
        with watch("measure"):
            per_view = (len(batch.views), self._grid.cells, self._teacher.channels)
            for hits, exact, found in zip(batch.hits, standardised.reshape(per_view), stored.reshape(per_view)):
                self._fidelity.add(hits, exact, found)

    def finish(self) -> dict[str, float]:
        return self._fidelity.result()


class MaskPass:
    """Masks of every view at every level, each with a unit vector of the text-aligned teacher where one runs."""

    def __init__(
        self, writer: SceneCacheWriter, plan: TeacherPlan, teacher: MaskTeacher, config: Stage1Config,
        text_teacher: DenseTeacher | None, text_name: str, surfaces: SceneSurfaces,
    ) -> None:  # fmt: skip
        self.name, self._text_name = plan.name, text_name
        self._teacher, self._config, self._grid = teacher, config, config_grid(config)
        source = None
        if text_teacher is not None:
            form = config.mask_embeddings
            self._embed = mask_embedder(form, text_teacher, self._grid)
            source = EmbeddingSource(spec=text_teacher.spec, fingerprint=text_teacher.fingerprint, form=form)
        self._text_teacher, self._surfaces = text_teacher, surfaces
        self._embeddings: dict[str, list[NDArray[np.float16]]] = {level: [] for level in teacher.levels}
        self._out = writer.add_mask_teacher(
            plan.name,
            spec=split_name(plan.spec)[1],
            fingerprint=plan.fingerprint,
            levels=teacher.levels,
            height=config.height,
            width=config.width,
            embedded_by=source,
        )
        self._scene_id = writer.scene_id

    def add(self, batch: ViewBatch, tokens: dict[str, F32], watch: Watch) -> Callable[[], None]:
        seeds = [view_seed(self._config.seed, self._scene_id, view) for view in batch.views]
        surfaces = [partial(self._surfaces.of_view, view, depth) for view, depth in zip(batch.views, batch.depth)]
        with watch(self.name):
            per_view = self._teacher.masks_of_views(batch.images, seeds, surfaces)
        dense = None if self._text_teacher is None else tokens[self._text_name]
        return partial(self._store, batch, per_view, dense, watch)

    def _store(
        self, batch: ViewBatch, per_view: Sequence[Mapping[str, NDArray[np.int32]]], dense: F32 | None, watch: Watch
    ) -> None:
        for i, levels in enumerate(per_view):
            with watch("quantise"):
                self._out.append(levels)
            if dense is None:
                continue
            cells = dense[i].reshape(self._grid.cells, -1)
            with watch("embed masks"):
                for level, ids in levels.items():
                    self._embeddings[level].append(self._embed(batch.images[i], ids, cells).astype(np.float16))

    def finish(self) -> dict[str, float]:
        if self._text_teacher is not None:
            for level, per_view in self._embeddings.items():
                offsets = np.cumsum([0, *map(len, per_view)], dtype=np.int64)
                self._out.put_embeddings(level, offsets, np.concatenate(per_view))
        return {}


def view_seed(seed: int, scene_id: str, view: int) -> int:
    """Seed of one view's masks: a function of what is being looked at, never of who looks or when."""
    return zlib.crc32(f"{seed}/{scene_id}/{view}".encode())
