"""Scenes that take their worker with them; worker processes import this by name."""

from __future__ import annotations

import os

import numpy as np

from stage1_render_teachers.outcomes import SceneOutcome
from stage1_render_teachers.scene_task import SceneJob, run_scene

CRASHES, EATS = "scene03", "scene07"


def poisoned_scene(job: SceneJob) -> SceneOutcome:
    """`run_scene`, but one scene ends the process as a crash in native code does, and one takes all memory."""
    if job.row.scene_id == CRASHES:
        os._exit(139)
    if job.row.scene_id == EATS:
        hoard = []
        while True:
            hoard.append(np.ones(1 << 24))  # 128 MB, touched
    return run_scene(job)
