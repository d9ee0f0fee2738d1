"""Synthetic furnished rooms: labelled Gaussian scenes with cameras, and the raw layouts of public data sets, all from a seed."""

from chorus_common.synthetic.options import DOMAINS, RoomOptions
from chorus_common.synthetic.room import SyntheticRoom, generate_room

__all__ = ["DOMAINS", "RoomOptions", "SyntheticRoom", "generate_room"]
