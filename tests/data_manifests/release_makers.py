"""Tiny releases on disk in the raw layouts, with their truth: what readers of data sets are tested on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TABLE = (
    "id\traw_category\tcategory\tcount\tnyu40id\tnyu40class\r\r\n"
    "1\twall\twall\t9\t1\twall\r\r\n"
    "2\tchair\tchair\t9\t5\tchair\r\r\n"
    "1189\tpotted plant\tpotted plant\t9\t40\totherprop\r\r\n"
    "10\toffice chair\toffice chair\t9\t5\tchair\r\r\n"
    "286\tcandle\tcandle\t9\t40\totherprop\r\r\n"
    "7777\todd thing\todd thing\t9\t\t\r\r\n"
)


@dataclass(frozen=True, eq=False)
class Scan:
    """Vertices [M, 3], their colours, faces [F, 3], a segment per vertex, objects (id, raw category, segments)."""

    vertices: NDArray[np.float32]
    colors: NDArray[np.uint8]
    faces: NDArray[np.int32]
    segments: NDArray[np.int64]
    objects: tuple[tuple[int, str, tuple[int, ...]], ...]


def tiny_scan(seed: int, n: int = 80) -> Scan:
    """Random vertices; segments 5, 15, ... (not consecutive), of which the last belongs to no object."""
    rng = np.random.default_rng(seed)
    segments = rng.integers(0, 6, n) * 10 + 5
    return Scan(
        rng.uniform(0, 2, (n, 3)).astype(np.float32),
        rng.integers(0, 256, (n, 3), dtype=np.uint8),
        rng.integers(0, n - 1, (2 * n, 3), dtype=np.int32),  # the last vertex is in no face
        segments,
        ((4, "wall", (5,)), (0, "chair", (15,)), (7, "office chair", (25,)), (2, "potted plant", (35,)),
         (3, "odd thing", (45,))),
    )  # fmt: skip


def scan_truth(scan: Scan) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(raw category number as position in `objects`, objectId) per vertex, -1 = none; vertex by vertex."""
    position, instance = [], []
    for segment in scan.segments.tolist():
        owners = [i for i, (_, _, segments) in enumerate(scan.objects) if segment in segments]
        position.append(owners[-1] if owners else -1)
        instance.append(scan.objects[owners[-1]][0] if owners else -1)
    return np.array(position), np.array(instance)


def write_scan(folder: Path, scan: Scan, *, annotated: bool = True) -> None:
    """A scan in ScanNet's layout, called like its folder."""
    folder.mkdir(parents=True)
    name = folder.name
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(scan.vertices)}\n"
        "property float x\nproperty float y\nproperty float z\nproperty uchar red\nproperty uchar green\n"
        f"property uchar blue\nproperty uchar alpha\nelement face {len(scan.faces)}\n"
        "property list uchar int vertex_indices\nend_header\n"
    )
    vertex = np.zeros(len(scan.vertices), [("xyz", "<f4", 3), ("rgba", "u1", 4)])
    vertex["xyz"], vertex["rgba"][:, :3] = scan.vertices, scan.colors
    face = np.zeros(len(scan.faces), [("n", "u1"), ("v", "<i4", 3)])
    face["n"], face["v"] = 3, scan.faces
    (folder / f"{name}_vh_clean_2.ply").write_bytes(header.encode() + vertex.tobytes() + face.tobytes())
    if not annotated:
        return
    (folder / f"{name}_vh_clean_2.0.010000.segs.json").write_text(json.dumps({"segIndices": scan.segments.tolist()}))
    groups = [{"id": i, "objectId": i, "label": raw, "segments": list(s)} for i, raw, s in scan.objects]
    (folder / f"{name}.aggregation.json").write_text(json.dumps({"segGroups": groups}))


def write_scannet_release(root: Path, train: int = 2, val: int = 1, test: int = 0) -> dict[str, Scan]:
    """A release with its own split lists; returns the scans by id."""
    scans: dict[str, Scan] = {}
    root.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("val", val), ("test", test)):
        ids = [f"scene{len(scans) + i:04d}_00" for i in range(count)]
        for scene_id in ids:
            scans[scene_id] = tiny_scan(len(scans))
            folder = root / ("scans_test" if split == "test" else "scans") / scene_id
            write_scan(folder, scans[scene_id], annotated=split != "test")
        (root / f"scannetv2_{split}.txt").write_text("".join(f"{name}\n" for name in ids))
    (root / "scannetv2-labels.combined.tsv").write_bytes(TABLE.encode())
    return scans


def write_room(room: Path, objects: Sequence[tuple[str, NDArray[np.float64]]]) -> None:
    """A room in S3DIS's layout: (file stem such as "chair_1", points [M, 6]) each."""
    (room / "Annotations").mkdir(parents=True)
    for stem, points in objects:
        lines = [f"{x:.3f} {y:.3f} {z:.3f} {r:.0f} {g:.0f} {b:.0f}" for x, y, z, r, g, b in points.tolist()]
        (room / "Annotations" / f"{stem}.txt").write_text("\n".join(lines) + "\n")


def room_points(seed: int, n: int = 40) -> NDArray[np.float64]:
    """Points [n, 6] as a text file can hold them exactly: millimetres and whole colours."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.integers(-3000, 3000, (n, 3)) / 1000, rng.integers(0, 256, (n, 3))], axis=1)


def npy_scene(folder: Path, seed: int, n: int = 60, **more: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
    """Coordinates, colours and normals of `n` points as .npy files, with `more` beside them; returns all."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(n, 3)).astype(np.float32)
    arrays: dict[str, NDArray[np.generic]] = {
        "coord": rng.uniform(0, 2, (n, 3)).astype(np.float32),
        "color": rng.integers(0, 256, (n, 3), dtype=np.uint8),
        "normal": normal / np.linalg.norm(normal, axis=1, keepdims=True),
    }
    arrays |= more
    folder.mkdir(parents=True)
    for key, value in arrays.items():
        np.save(folder / f"{key}.npy", value)
    return arrays
