"""Synthetic furnished rooms from a seed: labelled Gaussian scenes with cameras, and the raw layouts of public data
sets.
"""

from data_manifests.synthetic.dataset import SynthConfig, write_dataset
from data_manifests.synthetic.mesh import Mesh, tessellate
from data_manifests.synthetic.options import DOMAINS, RoomOptions
from data_manifests.synthetic.room import InstanceInfo, SyntheticRoom, generate_room

__all__ = [
    "DOMAINS", "InstanceInfo", "Mesh", "RoomOptions", "SynthConfig", "SyntheticRoom", "generate_room", "tessellate",
    "write_dataset",
]  # fmt: skip
