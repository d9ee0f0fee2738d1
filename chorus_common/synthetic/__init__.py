"""Synthetic furnished rooms from a seed: labelled Gaussian scenes with cameras, and the raw layouts of public data
sets.
"""

from chorus_common.synthetic.dataset import SynthConfig, write_dataset
from chorus_common.synthetic.mesh import Mesh, tessellate
from chorus_common.synthetic.options import DOMAINS, RoomOptions
from chorus_common.synthetic.room import InstanceInfo, SyntheticRoom, generate_room

__all__ = [
    "DOMAINS", "InstanceInfo", "Mesh", "RoomOptions", "SynthConfig", "SyntheticRoom", "generate_room", "tessellate",
    "write_dataset",
]  # fmt: skip
