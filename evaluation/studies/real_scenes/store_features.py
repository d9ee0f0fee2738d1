"""Features of a store's views as the trials want them: cell by cell, standardised or a teacher's own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chorus_common.cache import SceneCache
from chorus_common.features.standardise import PhiSStandardiser
from evaluation.scenes import EvalScene
from evaluation.studies.real_scenes.plan import StudyTeacher

F32 = NDArray[np.float32]


def standardiser_of(scene: EvalScene, teacher: StudyTeacher) -> PhiSStandardiser:
    """The standardiser that the scene's store was made with."""
    assert scene.store is not None
    return PhiSStandardiser.load(scene.store / "standardisers" / f"{teacher.name}.safetensors")


def cells_of(cache: SceneCache, teacher: StudyTeacher) -> F32:
    """Standardised features [V, cells, C] of a teacher."""
    found = cache.features(teacher.name)
    return found.reshape(len(found), -1, found.shape[-1])
