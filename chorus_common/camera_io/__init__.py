"""Cameras from files: `read_cameras(path)` picks the reader by what lies at `path`; one module per format."""

from typing import TYPE_CHECKING

from chorus_common.runtime.lazy import lazy_exports

if TYPE_CHECKING:
    from chorus_common.camera_io.read import read_cameras
    from chorus_common.camera_io.transforms_json import write_transforms_json

__all__ = ["read_cameras", "write_transforms_json"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "chorus_common.camera_io.read": ("read_cameras",),
        "chorus_common.camera_io.transforms_json": ("write_transforms_json",),
    },
)
