"""What the stages share: scenes, cameras, lifting, the teacher cache, manifests, text encoders."""

from typing import TYPE_CHECKING

from chorus_common.runtime.lazy import lazy_exports

if TYPE_CHECKING:
    from chorus_common.cache.reader import SceneCache
    from chorus_common.camera_io.read import read_cameras
    from chorus_common.cameras import CameraSet
    from chorus_common.labels import LABEL_SPACES
    from chorus_common.lifting.cells import CellGrid
    from chorus_common.lifting.index import LiftingIndex
    from chorus_common.manifest import Manifest
    from chorus_common.rasterize.backends import get_backend
    from chorus_common.runtime.errors import ChorusError
    from chorus_common.runtime.version import __version__
    from chorus_common.scene import GaussianScene
    from chorus_common.scene_io.read import read_scene, write_scene
    from chorus_common.text.encoders import load_text_encoder

__all__ = [
    "LABEL_SPACES",
    "CameraSet",
    "CellGrid",
    "ChorusError",
    "GaussianScene",
    "LiftingIndex",
    "Manifest",
    "SceneCache",
    "__version__",
    "get_backend",
    "load_text_encoder",
    "read_cameras",
    "read_scene",
    "write_scene",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "chorus_common.cache.reader": ("SceneCache",),
        "chorus_common.camera_io.read": ("read_cameras",),
        "chorus_common.cameras": ("CameraSet",),
        "chorus_common.labels": ("LABEL_SPACES",),
        "chorus_common.lifting.cells": ("CellGrid",),
        "chorus_common.lifting.index": ("LiftingIndex",),
        "chorus_common.manifest": ("Manifest",),
        "chorus_common.rasterize.backends": ("get_backend",),
        "chorus_common.runtime.errors": ("ChorusError",),
        "chorus_common.runtime.version": ("__version__",),
        "chorus_common.scene": ("GaussianScene",),
        "chorus_common.scene_io.read": ("read_scene", "write_scene"),
        "chorus_common.text.encoders": ("load_text_encoder",),
    },
)
