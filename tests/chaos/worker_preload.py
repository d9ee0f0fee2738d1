"""Loaded by the workers of the chaos tests (dask's --preload): every scene that is begun leaves a line in a file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from chorus_common.cameras import CameraSet
from stage1_render_teachers import scene_task
from stage1_render_teachers.attempt import Stopwatch
from stage1_render_teachers.outcomes import SceneOutcome
from stage1_render_teachers.scene_task import SceneJob

Publish = Callable[[SceneJob, CameraSet | None, Stopwatch], SceneOutcome]


def counted(publish: Publish) -> Publish:
    def publish_and_say_so(job: SceneJob, own: CameraSet | None, watch: Stopwatch) -> SceneOutcome:
        log = os.open(os.environ["CHAOS_STARTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(log, f"{job.row.scene_id} {time.time()}\n".encode())  # one short write: lines never mix
        os.close(log)
        return publish(job, own, watch)

    return publish_and_say_so


if scene_task.publish_scene.__module__ == scene_task.__name__:  # dask may load this file twice
    scene_task.publish_scene = counted(scene_task.publish_scene)
