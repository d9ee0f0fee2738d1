"""The raw ScanNet release layout, from our rooms: what a ScanNet reader must be able to read.

<out>/scans/sceneXXXX_YY/sceneXXXX_YY_vh_clean_2.ply                    mesh with vertex colours
                         sceneXXXX_YY_vh_clean_2.0.010000.segs.json     over-segmentation: a segment per vertex
                         sceneXXXX_YY.aggregation.json                  objects: raw category + segments
                         sceneXXXX_YY.txt                               axisAlignment, intrinsics
                         pose/<n>.txt, intrinsic/intrinsic_color.txt    camera to world, 4 x 4
<out>/scans_test/...                                                    the same without annotations
<out>/scannetv2-labels.combined.tsv, <out>/scannetv2_{train,val,test}.txt
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import CameraSet
from data_manifests.synthetic.mesh import Mesh, tessellate
from data_manifests.synthetic.room import SyntheticRoom

#: Sizes of ScanNet's pictures: intrinsics refer to them.
PICTURES = {"color": (1296, 968), "depth": (640, 480)}

_SCENE_TYPES = {
    "living room": "Living room / Lounge", "bedroom": "Bedroom / Hotel", "office": "Office", "kitchen": "Kitchen",
    "bathroom": "Bathroom",
}  # fmt: skip


def write_scannet(
    room: SyntheticRoom, folder: Path, scene_id: str, *, annotated: bool = True, step: float = 0.04
) -> None:
    """Write one scan called `scene_id` into `folder`; `step` is the length of the mesh's edges in metres."""
    folder.mkdir(parents=True, exist_ok=True)
    mesh = tessellate(room.model, step)
    stem = f"{scene_id}_vh_clean_2"
    (folder / f"{stem}.ply").write_bytes(mesh_ply(mesh))
    if annotated:
        segs = {
            "params": {"kThresh": "0.01", "segMinVerts": "20"},
            "sceneId": scene_id,
            "segIndices": mesh.segments.tolist(),
        }
        (folder / f"{stem}.0.010000.segs.json").write_text(json.dumps(segs), encoding="utf-8")
        (folder / f"{scene_id}.aggregation.json").write_text(
            json.dumps(aggregation(room, mesh, scene_id)), encoding="utf-8"
        )
    (folder / f"{scene_id}.txt").write_text(_meta(room), encoding="utf-8")
    _write_cameras(room.cameras, folder)


def mesh_ply(mesh: Mesh) -> bytes:
    """Binary little-endian PLY with the properties of ScanNet's files: x y z, red green blue alpha; triangles."""
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(mesh.vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\nproperty uchar alpha\n"
        f"element face {len(mesh.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    vertex = np.empty(len(mesh.vertices), dtype=[("xyz", "<f4", 3), ("rgba", "u1", 4)])
    vertex["xyz"] = mesh.vertices
    vertex["rgba"][:, :3] = np.rint(mesh.colors * 255)
    vertex["rgba"][:, 3] = 255
    face = np.empty(len(mesh.faces), dtype=[("n", "u1"), ("v", "<i4", 3)])
    face["n"], face["v"] = 3, mesh.faces
    return header.encode("ascii") + vertex.tobytes() + face.tobytes()


def aggregation(room: SyntheticRoom, mesh: Mesh, scene_id: str) -> dict[str, object]:
    """Objects as ScanNet lists them: an id, the raw category, the segments."""
    groups: list[dict[str, object]] = []
    pairs = np.unique(np.stack([mesh.instances, mesh.segments], axis=1), axis=0)
    for info in room.instances:
        segments = pairs[pairs[:, 0] == info.id, 1]
        if len(segments):
            number = len(groups)
            groups.append({"id": number, "objectId": number, "segments": segments.tolist(), "label": info.category})
    return {
        "sceneId": f"scannet.{scene_id}", "appId": "Aggregator.v2", "segGroups": groups,
        "segmentsFile": f"scannet.{scene_id}_vh_clean_2.0.010000.segs.json",
    }  # fmt: skip


def _numbers(matrix: NDArray[np.float64]) -> str:
    return " ".join(f"{x:.6f}" for x in matrix.ravel())


def _meta(room: SyntheticRoom) -> str:
    align = np.eye(4)
    align[:3, :3] = np.linalg.inv(room.model.world)[:3, :3]
    lines = [f"axisAlignment = {_numbers(align)} "]
    for kind, (width, height) in PICTURES.items():
        k = room.cameras.resized(width, height).intrinsics[0]
        lines += [
            f"{kind}Height = {height}",
            f"{kind}Width = {width}",
            f"fx_{kind} = {k[0, 0]:.6f}",
            f"fy_{kind} = {k[1, 1]:.6f}",
        ]
        lines += [f"mx_{kind} = {k[0, 2]:.6f}", f"my_{kind} = {k[1, 2]:.6f}"]
    frames = len(room.cameras)
    lines += [f"numColorFrames = {frames}", f"numDepthFrames = {frames}", f"sceneType = {_SCENE_TYPES[room.room_type]}"]
    return "\n".join(lines) + "\n"


def _write_cameras(cameras: CameraSet, folder: Path) -> None:
    """pose/<n>.txt (camera to world) and intrinsic/*.txt as ScanNet's own exporter writes them."""
    (folder / "pose").mkdir(exist_ok=True)
    (folder / "intrinsic").mkdir(exist_ok=True)
    for i, view in enumerate(cameras.viewmats):
        rows = np.linalg.inv(view)
        (folder / "pose" / f"{i}.txt").write_text("\n".join(_numbers(row) for row in rows) + "\n", encoding="utf-8")
    for kind, (width, height) in PICTURES.items():
        k = np.eye(4)
        k[:3, :3] = cameras.resized(width, height).intrinsics[0]
        for name, matrix in (("intrinsic", k), ("extrinsic", np.eye(4))):
            text = "\n".join(_numbers(row) for row in matrix) + "\n"
            (folder / "intrinsic" / f"{name}_{kind}.txt").write_text(text, encoding="utf-8")
