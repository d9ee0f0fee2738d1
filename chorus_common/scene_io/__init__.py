"""Scenes from and to files: `read_scene(path)` picks the reader by content; one module per format."""

from typing import TYPE_CHECKING

from chorus_common.runtime.lazy import lazy_exports

if TYPE_CHECKING:
    from chorus_common.scene_io.bounds import MAX_GAUSSIANS
    from chorus_common.scene_io.inria_ply import write_ply
    from chorus_common.scene_io.npy_folder import read_npy_folder, write_npy_folder
    from chorus_common.scene_io.point_gaussians import PointCloudOptions, points_to_gaussians
    from chorus_common.scene_io.read import FORMATS, Probe, is_scene_folder, probe, read_scene, write_scene

__all__ = [
    "FORMATS",
    "MAX_GAUSSIANS",
    "PointCloudOptions",
    "Probe",
    "is_scene_folder",
    "points_to_gaussians",
    "probe",
    "read_npy_folder",
    "read_scene",
    "write_npy_folder",
    "write_ply",
    "write_scene",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "chorus_common.scene_io.bounds": ("MAX_GAUSSIANS",),
        "chorus_common.scene_io.inria_ply": ("write_ply",),
        "chorus_common.scene_io.npy_folder": ("read_npy_folder", "write_npy_folder"),
        "chorus_common.scene_io.point_gaussians": ("PointCloudOptions", "points_to_gaussians"),
        "chorus_common.scene_io.read": ("FORMATS", "Probe", "is_scene_folder", "probe", "read_scene", "write_scene"),
    },
)
