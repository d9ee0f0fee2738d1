"""Stage 1: render scenes, ask the 2D teachers, write one teacher cache per scene."""

from typing import TYPE_CHECKING

from chorus_common.runtime.lazy import lazy_exports

if TYPE_CHECKING:
    from chorus_common.runtime.version import __version__
    from stage1_render_teachers.run import RunSummary, run_stage1
    from stage1_render_teachers.scene_task import SceneJob, run_scene
    from stage1_render_teachers.settings import RunConfig, Stage1Config
    from stage1_render_teachers.status import store_status
    from stage1_render_teachers.teachers import build_teacher, known_teachers
    from stage1_render_teachers.teachers.protocol import DenseTeacher, MaskTeacher, Teacher
    from stage1_render_teachers.views.choose import choose_views

__all__ = [
    "DenseTeacher",
    "MaskTeacher",
    "RunConfig",
    "RunSummary",
    "SceneJob",
    "Stage1Config",
    "Teacher",
    "__version__",
    "build_teacher",
    "choose_views",
    "known_teachers",
    "run_scene",
    "run_stage1",
    "store_status",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "chorus_common.runtime.version": ("__version__",),
        "stage1_render_teachers.run": ("RunSummary", "run_stage1"),
        "stage1_render_teachers.scene_task": ("SceneJob", "run_scene"),
        "stage1_render_teachers.settings": ("RunConfig", "Stage1Config"),
        "stage1_render_teachers.status": ("store_status",),
        "stage1_render_teachers.teachers": ("build_teacher", "known_teachers"),
        "stage1_render_teachers.teachers.protocol": ("DenseTeacher", "MaskTeacher", "Teacher"),
        "stage1_render_teachers.views.choose": ("choose_views",),
    },
)
