"""Does a scene meet what encoders expect of it, and how it is brought there."""

from chorus_common.scene_check.align import AlignedScene, Alignment, align_scene
from chorus_common.scene_check.findings import Finding
from chorus_common.scene_check.settings import AlignmentSettings

__all__ = ["AlignedScene", "Alignment", "AlignmentSettings", "Finding", "align_scene"]
