"""Targets of one scene: teachers' features in the standardised space, lifted on the fly from the cache's sparse matrix,
or as they came lifted already (`chorus-stage1 import`, the export of a field).

Lifted features are never stored on disk (800 scenes of them would take a terabyte); what is stored are quantised cells
and the lifting index, and the product of the two is cheap. Within a process a scene's lifted targets are remembered in
fp16 as long as the byte budget lasts. Whether they are remembered, and whether a crop or a whole scene is lifted,
changes no bit: a row's sum runs over the same entries in the same order, and is always rounded to fp16.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from chorus_common.features.standardise import Translation
from chorus_common.lifting import LiftingIndex
from chorus_common.runtime.errors import CacheError, ConfigError
from chorus_common.scene import GaussianScene
from stage2_distill.data.batch import Draw, TeacherTarget
from stage2_distill.data.groups import cell_masks
from stage2_distill.settings import MaskContrastSettings

F16 = NDArray[np.float16]
F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


class SceneStore(Protocol):
    """What training needs of `chorus_common.cache.SceneCache`."""

    @property
    def dense_teachers(self) -> Any: ...
    @property
    def mask_teachers(self) -> Any: ...
    @property
    def n_views(self) -> int: ...
    def scene(self) -> GaussianScene: ...
    def lifting(self, rows: slice | NDArray[np.integer] | None = None) -> LiftingIndex: ...
    def features(self, name: str, views: Any = None) -> F32: ...
    def masks(self, name: str, level: str, views: Any = None) -> I32: ...
    def visibility(self) -> tuple[F32, I32]: ...
    def lifted_features(self, name: str, rows: slice | NDArray[np.integer] | None = None) -> tuple[F32, Bool]: ...


#: Rows of a teacher that came lifted, which are decoded at a time.
_BLOCK = 1 << 15


class ByteBudget:
    """How much more may be remembered; shared by all scenes and threads of a process. Nothing is ever given back.

    Evicting would not help: scenes come back in shuffled rounds, so every remembered one is as useful as any other.
    """

    def __init__(self, size: int) -> None:
        self._left = size
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Reserve `size` bytes, or return False and leave the budget as it is."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True


@dataclass(frozen=True, eq=False)
class Geometry:
    """A scene in Morton order and its visibility: weight [N] f32, valid [N] (enough weight and views to be a
    target)."""

    scene: GaussianScene
    weight: F32
    valid: Bool


@dataclass(frozen=True, eq=False)
class LiftedRows:
    """Targets of R Gaussians: values {teacher: [R, C] f16 standardised}, weight [R] f32 (0 where a Gaussian is no
    target); known {teacher: [R] bool} of teachers that came lifted, which have no vector for some Gaussians.
    """

    values: Mapping[str, F16]
    weight: F32
    known: Mapping[str, Bool] = field(default_factory=dict)

    def select(self, rows: I64) -> LiftedRows:
        """The targets at `rows`."""
        known = {t: there[rows] for t, there in self.known.items()}
        return LiftedRows({t: v[rows] for t, v in self.values.items()}, self.weight[rows], known)


class SceneTargets:
    """Geometry and lifted targets of one scene.

    Args:
        name: for messages. dataset: that the scene belongs to.
        teachers: {name: channels}; those that the store lacks are left out of `LiftedRows.values`.
        translations: of teachers whose features are wanted in another standardiser's space than the store's (a trained
            student's).
    """

    def __init__(
        self,
        store: SceneStore,
        name: str,
        teachers: Mapping[str, int],
        *,
        min_weight: float,
        min_views: int,
        budget: ByteBudget,
        translations: Mapping[str, Translation] | None = None,
        dataset: str = "",
    ) -> None:
        self.name, self.dataset = name, dataset
        self._translations = translations or {}
        self.teachers = {t: c for t, c in teachers.items() if t in store.dense_teachers}
        self._store, self._min_weight, self._min_views, self._budget = store, min_weight, min_views, budget
        self._lock = threading.Lock()
        self._geometry: Geometry | None = None
        self._lifted: LiftedRows | None = None
        self._index: LiftingIndex | None = None
        self._index_too_large = False
        self._cell_masks: dict[tuple[str, str, float], I32] = {}

    def geometry(self) -> Geometry:
        """Read, or remembered. Raises CacheError where no Gaussian has visibility enough to be a target."""
        with self._lock:
            if self._geometry is not None:
                return self._geometry
            scene = self._store.scene()
            weight, n_views = self._store.visibility()
            valid = weight > self._min_weight
            if self.n_views:  # nobody recorded how many views made features that came lifted
                valid &= n_views >= self._min_views
            if not valid.any():
                raise CacheError(
                    f"scene {self.name}: no Gaussian has weight {self._min_weight:g} and {self._min_views} views"
                    "; lower data.min_weight or data.min_views, or leave the scene out"
                )
            geometry = Geometry(scene, weight, valid)
            if self._budget.take(len(scene) * (14 * 4 + 5)):  # 14 floats, visibility and its flag
                self._geometry = geometry
            return geometry

    def targets(self, rows: I64, geometry: Geometry, views: Sequence[int] | None = None) -> LiftedRows:
        """Targets of the ascending matrix rows `rows`, from all views or from `views` (ascending) alone."""
        if views is None:
            whole = self._remembered(geometry)
            if whole is not None:
                return whole.select(rows)
        return self._lift(rows, geometry, views)

    def index(self, rows: I64) -> LiftingIndex:
        """Lifting index of the matrix rows `rows` (ascending); the whole one is remembered as long as there is room."""
        with self._lock:
            if self._index is None and not self._index_too_large:
                whole = self._store.lifting()
                self._index_too_large = not self._budget.take(8 * len(whole.columns) + 16 * len(whole))
                if not self._index_too_large:
                    self._index = whole
        return self._store.lifting(rows) if self._index is None else gather_rows(self._index, rows)

    def cell_masks(self, settings: MaskContrastSettings, views: I64, rng: np.random.Generator) -> I32 | None:
        """Masks [V, cells] of the ascending `views`, each view at a level drawn from the settings'; None without masks.

        Raises ConfigError for a mask teacher or a level that the scene should have and lacks.
        """
        found = self._store.mask_teachers
        if not found:
            return None
        teacher = settings.teacher or next(iter(found))
        if teacher not in found or (not settings.teacher and len(found) > 1):
            raise ConfigError(
                f"scene {self.name}: masks.teacher is '{settings.teacher}', its mask teachers are {', '.join(found)}"
            )
        known = found[teacher].levels
        levels = settings.levels or known[:1]
        for level in levels:
            if level not in known:
                raise ConfigError(
                    f"scene {self.name}: masks.levels names '{level}', teacher {teacher} has {', '.join(known)}"
                )
        drawn = rng.integers(len(levels), size=len(views))
        return np.stack([self._level(teacher, levels[k], settings.purity)[v] for k, v in zip(drawn, views)])

    def _level(self, teacher: str, level: str, purity: float) -> I32:
        """Masks of all cells of all views [V, cells]; always remembered: 5 bytes per thousand pixels."""
        with self._lock:
            key = (teacher, level, purity)
            if key not in self._cell_masks:
                grid = self._store.lifting(slice(0, 0)).grid
                self._cell_masks[key] = cell_masks(self._store.masks(teacher, level), grid, purity)
            return self._cell_masks[key]

    @property
    def n_views(self) -> int:
        """Number of views; 0 where every teacher came lifted."""
        return self._store.n_views

    def _remembered(self, geometry: Geometry) -> LiftedRows | None:
        with self._lock:
            n = len(geometry.scene)
            if self._lifted is None and self._budget.take(n * (2 * sum(self.teachers.values()) + 4)):
                self._lifted = self._lift(np.arange(n), geometry, None)
            return self._lifted

    def _lift(self, rows: I64, geometry: Geometry, views: Sequence[int] | None) -> LiftedRows:
        if all(map(self._came_lifted, self.teachers)) and views is None:
            weight = np.where(geometry.valid[rows], geometry.weight[rows], np.float32(0))
            return self._with_given(rows, {}, weight)
        index = self._store.lifting(rows) if self._index is None else gather_rows(self._index, rows)
        seen = np.zeros(index.n_views, dtype=bool)
        seen[np.unique(index.columns // index.grid.cells)] = True
        if views is not None:
            chosen = np.zeros_like(seen)
            chosen[list(views)] = True
            seen &= chosen
        needed = np.flatnonzero(seen)  # a crop is seen by some of the views: only these are decoded
        index = index.select_views(needed)
        weight = geometry.weight[rows] if views is None else index.visibility()[0]
        # with a subset of views a Gaussian may have lost what made it valid
        weight = np.where(geometry.valid[rows] & (weight > self._min_weight), weight, np.float32(0))
        lifted = {t: self._lift_teacher(t, index, needed, weight) for t in self.teachers if not self._came_lifted(t)}
        return self._with_given(rows, lifted, weight)

    def _came_lifted(self, teacher: str) -> bool:
        return self._store.dense_teachers[teacher].lifted_rows is not None

    def _with_given(self, rows: I64, lifted: Mapping[str, F16], weight: F32) -> LiftedRows:
        """Targets of all teachers in their order; those that came lifted are read."""
        values, known = {}, {}
        for teacher in self.teachers:
            if teacher in lifted:
                values[teacher] = lifted[teacher]
            else:
                values[teacher], known[teacher] = self._given(teacher, rows)
        return LiftedRows(values, weight, known)

    def _given(self, teacher: str, rows: I64) -> tuple[F16, Bool]:
        """Features [R, C] of a teacher that came lifted, and which of the rows [R] have one."""
        channels = self.teachers[teacher]
        values, known = np.zeros((len(rows), channels), np.float16), np.zeros(len(rows), np.bool_)
        for begin in range(0, len(rows), _BLOCK):
            part = slice(begin, begin + _BLOCK)
            own, there = self._store.lifted_features(teacher, rows[part])
            if own.shape[-1] != channels:
                raise CacheError(
                    f"scene {self.name}: teacher {teacher} has {own.shape[-1]} channels, not {channels}; import it "
                    "again"
                )
            values[part][there], known[part] = self._translated(teacher, own[there]), there
        return values, known

    def cells(self, teacher: str, views: I64) -> F32:
        """Standardised features [V * cells, C] of the ascending `views`."""
        channels = self.teachers[teacher]
        cells = self._store.features(teacher, views)
        if cells.shape[-1] != channels:
            raise CacheError(
                f"scene {self.name}: teacher {teacher} has {cells.shape[-1]} channels, not {channels}; redo stage 1"
            )
        return self._translated(teacher, cells.reshape(-1, channels))  # [V, rows, cols, C] -> [V * cells, C]

    def _translated(self, teacher: str, values: NDArray[Any]) -> NDArray[Any]:
        translation = self._translations.get(teacher)
        return values if translation is None else translation(values)

    def _lift_teacher(self, teacher: str, index: LiftingIndex, views: I64, weight: F32) -> F16:
        if len(views) == 0:
            return np.zeros((len(weight), self.teachers[teacher]), np.float16)
        sums, total = index.lift(self.cells(teacher, views))
        values = (sums / np.maximum(total, 1e-12)[:, None]).astype(np.float16)
        values[weight == 0] = 0
        if not np.isfinite(values).all():
            raise CacheError(
                f"scene {self.name}: lifted features of teacher {teacher} are not finite; run chorus-stage1 verify"
            )
        return values


def voxel_targets(
    lifted: LiftedRows, kept: I64, inverse: I64, n_voxels: int, draw: Draw | None = None
) -> dict[str, TeacherTarget]:
    """Visibility-weighted means per voxel; teachers without any valid Gaussian are left out.

    Args:
        kept: [n] which rows of `lifted` are there. inverse: [n] voxel of each.
        draw: which of a teacher's voxels are wanted (None: all), asked for teacher after teacher; no other is computed.
    """
    inverse = np.asarray(inverse)
    everywhere = _VoxelMeans.of(lifted.weight, kept, inverse, n_voxels)  # of teachers that say something about all
    targets = {}
    for name, values in lifted.values.items():
        means = everywhere
        if name in lifted.known:
            means = _VoxelMeans.of(np.where(lifted.known[name], lifted.weight, 0), kept, inverse, n_voxels)
        if means is not None:
            targets[name] = means(values, draw)
    return targets


@dataclass(frozen=True, eq=False)
class _VoxelMeans:
    """Which Gaussians [n] make which voxels [M], with which weight: matrix [M, n]; total [voxels]; scale [M, 1]."""

    kept: I64
    rows: I64
    matrix: sparse.csr_matrix
    total: NDArray[np.float64]
    scale: F32

    @staticmethod
    def of(weight: F32, kept: I64, inverse: I64, n_voxels: int) -> _VoxelMeans | None:
        """None where no Gaussian has weight."""
        weight = weight[kept]
        has = weight > 0
        if not has.any():
            return None
        kept, weight, voxel = kept[has], weight[has], inverse[has]
        matrix = sparse.csr_matrix((weight, (voxel, np.arange(len(voxel)))), shape=(n_voxels, len(voxel)))
        total = np.bincount(voxel, weights=weight, minlength=n_voxels).astype(np.float64)
        rows = np.flatnonzero(total > 0)
        return _VoxelMeans(kept, rows, matrix[rows], total, (1 / total[rows]).astype(np.float32)[:, None])

    def __call__(self, values: F16, draw: Draw | None) -> TeacherTarget:
        """Means of `values` [R, C], of all voxels or of those that are drawn."""
        own, part, source, factor = self.rows, self.matrix, self.kept, self.scale
        if draw is not None:
            chosen = draw(len(own))
            own, part, factor = own[chosen], part[chosen], factor[chosen]
            members = np.unique(part.indices)
            part, source = part[:, members], source[members]
        return TeacherTarget(
            torch.from_numpy(own),
            torch.from_numpy((part @ _float32(values[source])) * factor),
            torch.from_numpy(self.total[own].astype(np.float32)),
            torch.zeros(len(own), dtype=torch.int64),
        )


def _float32(values: F16) -> F32:
    """torch's conversion, which is vectorised: three times as fast as numpy's."""
    wide: F32 = torch.from_numpy(values).float().numpy()
    return wide


def gather_rows(index: LiftingIndex, rows: I64) -> LiftingIndex:
    """The index of the given rows alone, in the order given."""
    if len(rows) == len(index) and (np.diff(rows) == 1).all():
        return index
    lengths = np.diff(index.indptr)[rows]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    entries = np.repeat(index.indptr[rows] - indptr[:-1], lengths) + np.arange(indptr[-1])
    return LiftingIndex(
        index.order[rows], indptr, index.columns[entries], index.weights[entries], index.grid, index.n_views
    )
