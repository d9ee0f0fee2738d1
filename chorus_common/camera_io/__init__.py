"""Cameras from files: `read_cameras(path)` picks the reader by what lies at `path`; one module per format."""

from chorus_common.camera_io.read import read_cameras
from chorus_common.camera_io.transforms_json import write_transforms_json

__all__ = ["read_cameras", "write_transforms_json"]
