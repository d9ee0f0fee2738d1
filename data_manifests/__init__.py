"""Data sets from their release to a manifest, synthetic rooms, and what scenes hold."""

from typing import TYPE_CHECKING

from chorus_common.runtime.lazy import lazy_exports

if TYPE_CHECKING:
    from chorus_common.runtime.version import __version__
    from data_manifests.datasets.prepare import prepare
    from data_manifests.datasets.settings import PrepareConfig
    from data_manifests.index import DatasetDescription, build_manifest
    from data_manifests.inspection import inspect_path, scene_report
    from data_manifests.synthetic.dataset import SynthConfig, write_dataset
    from data_manifests.synthetic.options import RoomOptions
    from data_manifests.synthetic.room import SyntheticRoom, generate_room

__all__ = [
    "DatasetDescription",
    "PrepareConfig",
    "RoomOptions",
    "SynthConfig",
    "SyntheticRoom",
    "__version__",
    "build_manifest",
    "generate_room",
    "inspect_path",
    "prepare",
    "scene_report",
    "write_dataset",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "chorus_common.runtime.version": ("__version__",),
        "data_manifests.datasets.prepare": ("prepare",),
        "data_manifests.datasets.settings": ("PrepareConfig",),
        "data_manifests.index": ("DatasetDescription", "build_manifest"),
        "data_manifests.inspection": ("inspect_path", "scene_report"),
        "data_manifests.synthetic.dataset": ("SynthConfig", "write_dataset"),
        "data_manifests.synthetic.options": ("RoomOptions",),
        "data_manifests.synthetic.room": ("SyntheticRoom", "generate_room"),
    },
)
