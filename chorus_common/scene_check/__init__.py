"""Does a scene meet what encoders expect of it, and how it is brought there."""

from typing import TYPE_CHECKING

from chorus_common.runtime.lazy import lazy_exports

if TYPE_CHECKING:
    from chorus_common.scene_check.align import AlignedScene, Alignment, align_scene
    from chorus_common.scene_check.findings import Finding
    from chorus_common.scene_check.settings import AlignmentSettings

__all__ = ["AlignedScene", "Alignment", "AlignmentSettings", "Finding", "align_scene"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "chorus_common.scene_check.align": ("AlignedScene", "Alignment", "align_scene"),
        "chorus_common.scene_check.findings": ("Finding",),
        "chorus_common.scene_check.settings": ("AlignmentSettings",),
    },
)
