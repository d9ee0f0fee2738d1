"""Scenes from and to files: `read_scene(path)` picks the reader by content; one module per format."""

from chorus_common.scene_io.bounds import MAX_GAUSSIANS
from chorus_common.scene_io.inria_ply import write_ply
from chorus_common.scene_io.npy_folder import read_npy_folder, write_npy_folder
from chorus_common.scene_io.point_gaussians import PointCloudOptions, points_to_gaussians
from chorus_common.scene_io.read import FORMATS, Probe, probe, read_scene, write_scene

__all__ = [
    "FORMATS",
    "MAX_GAUSSIANS",
    "PointCloudOptions",
    "Probe",
    "points_to_gaussians",
    "probe",
    "read_npy_folder",
    "read_scene",
    "write_npy_folder",
    "write_ply",
    "write_scene",
]
