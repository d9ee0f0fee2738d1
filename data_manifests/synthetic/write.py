"""The labelled Gaussian layout: one SceneSplat folder of .npy files per room, with cameras and part names."""

from __future__ import annotations

import json
from pathlib import Path

from chorus_common.camera_io.transforms_json import write_transforms_json
from chorus_common.scene_io.npy_folder import write_npy_folder
from data_manifests.synthetic.room import SyntheticRoom


def write_gaussians(room: SyntheticRoom, folder: Path) -> None:
    """`folder`: coord, color, opacity, scale, quat, normal, segment, instance, part (.npy), transforms.json,
    parts.json.
    """
    write_npy_folder(room.scene, folder)
    write_transforms_json(room.cameras, folder / "transforms.json")
    (folder / "parts.json").write_text(parts_json(room), encoding="utf-8")


def parts_json(room: SyntheticRoom) -> str:
    """What the numbers in instance.npy and part.npy mean."""
    text = {
        "room_type": room.room_type,
        "instances": [{"id": i.id, "label": i.label, "category": i.category} for i in room.instances],
        "parts": [
            {"id": i, "name": name, "instance": instance}
            for i, (name, instance) in enumerate(zip(room.part_names, room.part_instances))
        ],
    }
    return json.dumps(text, indent=1) + "\n"
