"""A field as a teacher: its features per Gaussian, in the space and the files that distillation reads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chorus_common.cache import SceneCache
from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.runtime.errors import ConfigError
from chorus_common.runtime.store_path import StorePath
from stage2_distill.fields.query import FieldView

F32 = NDArray[np.float32]


def matching_teacher(view: FieldView) -> str:
    """The cache's dense teacher in whose space the field's features lie. Raises ConfigError where it has none."""
    source = view.field.card.source
    for name, dense in sorted(view.cache.dense_teachers.items()):
        if dense.spec == source.spec and dense.fingerprint == source.fingerprint:
            return name
    raise ConfigError(
        f"scene {view.field.card.scene_id}: its masks are embedded by {source.spec}, which is no dense teacher of the "
        "cache; nothing to replace"
    )


def standardised_features(view: FieldView, teacher: str, standardiser: PhiSStandardiser) -> F32:
    """[N, C] in the teacher's standardised space, rows as in the cache.

    Gaussians that training never moved keep what lifting says of them, so that no target is lost.
    """
    out = standardiser.forward(view.gaussian_features())
    rest = np.flatnonzero(~view.seen)
    if len(rest):
        out[rest] = lifted_rows(view.cache, teacher, rest)
    return out


def lifted_rows(cache: SceneCache, teacher: str, rows: NDArray[np.integer]) -> F32:
    """Plain lifted features [R, C], standardised; rows of zeros without visibility."""
    cells = cache.features(teacher)
    sums, weight = cache.lifting(rows).lift(cells.reshape(-1, cells.shape[-1]))  # [V, rows, cols, C] -> [V * cells, C]
    return np.where(weight[:, None] > 0, sums / np.maximum(weight, 1e-12)[:, None], 0).astype(np.float32)


def in_source_order(cache: SceneCache, features: F32) -> F32:
    """Rows of the scene's source file [max id + 1, C]; zeros for what the cache has not."""
    ids = cache.scene().source_ids
    out = np.zeros((int(ids.max(initial=-1)) + 1, features.shape[1]), np.float32)
    out[ids] = features
    return out


def read_standardiser(store: StorePath, view: FieldView, teacher: str) -> PhiSStandardiser:
    """The standardiser of `teacher` under the cache root `store`. Raises ConfigError where it is not the cache's."""
    standardiser = PhiSStandardiser.load(store / "standardisers" / f"{teacher}.safetensors")
    if standardiser.fingerprint != view.cache.dense_teachers[teacher].standardiser:
        raise ConfigError(
            f"{store}: its standardiser of {teacher} is not the one that made scene {view.field.card.scene_id}"
        )
    return standardiser
