"""Synthetic furnished rooms from a seed: labelled Gaussian scenes with cameras, and the raw layouts of public data
sets.
"""

from typing import TYPE_CHECKING

from chorus_common.runtime.lazy import lazy_exports

if TYPE_CHECKING:
    from data_manifests.synthetic.dataset import SynthConfig, write_dataset
    from data_manifests.synthetic.mesh import Mesh, tessellate
    from data_manifests.synthetic.options import DOMAINS, RoomOptions
    from data_manifests.synthetic.room import InstanceInfo, SyntheticRoom, generate_room

__all__ = [
    "DOMAINS",
    "InstanceInfo",
    "Mesh",
    "RoomOptions",
    "SynthConfig",
    "SyntheticRoom",
    "generate_room",
    "tessellate",
    "write_dataset",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "data_manifests.synthetic.dataset": ("SynthConfig", "write_dataset"),
        "data_manifests.synthetic.mesh": ("Mesh", "tessellate"),
        "data_manifests.synthetic.options": ("DOMAINS", "RoomOptions"),
        "data_manifests.synthetic.room": ("InstanceInfo", "SyntheticRoom", "generate_room"),
    },
)
