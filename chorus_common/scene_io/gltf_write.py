"""Gaussians written as glTF 2.0 (.glb; layout: gltf.py), and a user's own .glb with further attributes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.atomic import write_bytes_atomically
from chorus_common.scene import SH_C0, GaussianScene
from chorus_common.scene_io.bounds import fail
from chorus_common.scene_io.gltf import MAGIC, NAME, TO_PLY, accessor, moved, open_gltf, splat_primitives


def write_gltf(scene: GaussianScene, path: str | Path) -> Path:
    """Write `scene` (with its harmonics up to degree 3) as .glb, rows in their order."""
    path = Path(path)
    columns: dict[str, Any] = {"means": scene.means, "quats": scene.quats, "scales": scene.scales}
    if scene.harmonics is not None:
        columns["harmonics"] = scene.harmonics
    columns = moved(path, columns, TO_PLY)  # its own inverse
    f_dc = (scene.colors.astype(np.float64) - 0.5) / SH_C0
    color = np.concatenate([scene.colors, scene.opacities[:, None]], axis=1)  # [N, 4]
    attributes: dict[str, NDArray[Any]] = {
        "POSITION": columns["means"], "COLOR_0": np.rint(np.clip(color, 0, 1) * 255).astype(np.uint8),
        f"{NAME}:ROTATION": columns["quats"][:, [1, 2, 3, 0]], f"{NAME}:SCALE": columns["scales"],
        f"{NAME}:OPACITY": scene.opacities[:, None], f"{NAME}:SH_DEGREE_0_COEF_0": f_dc,
    }  # fmt: skip
    if scene.harmonics is not None:
        if scene.harmonics.shape[1] > 15:
            fail(path, "glTF holds harmonics up to degree 3; these are of degree 4")
        coefficient = 0
        for degree in range(1, 4):
            for order in range(2 * degree + 1):
                if coefficient < scene.harmonics.shape[1]:
                    attributes[f"{NAME}:SH_DEGREE_{degree}_COEF_{order}"] = columns["harmonics"][:, coefficient]
                    coefficient += 1
    write_bytes_atomically(path, _glb(attributes))
    return path


def _glb(attributes: dict[str, NDArray[Any]]) -> bytes:
    """One point primitive with `attributes` [N, width] in a binary glTF."""
    views, accessors, chunks, at = [], [], [], 0
    for name, values in attributes.items():
        code, dtype = (5121, "<u1") if values.dtype == np.uint8 else (5126, "<f4")
        table = np.ascontiguousarray(values, dtype)
        raw = table.tobytes()
        views.append({"buffer": 0, "byteOffset": at, "byteLength": len(raw), "target": 34962})
        kind = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}[table.shape[1]]
        entry: dict[str, Any] = {"bufferView": len(views) - 1, "componentType": code, "count": len(table), "type": kind}
        if code == 5121:
            entry["normalized"] = True
        if name == "POSITION":
            entry |= {"min": table.min(0).tolist(), "max": table.max(0).tolist()}
        accessors.append(entry)
        chunks.append(raw + bytes(-len(raw) % 4))
        at += len(chunks[-1])
    kernel = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display", "sortingMethod": "cameraDistance",
              "projection": "perspective"}  # fmt: skip
    primitive = {"attributes": {name: i for i, name in enumerate(attributes)}, "mode": 0, "extensions": {NAME: kernel}}
    document = {
        "asset": {"version": "2.0", "generator": "chorus-data"}, "extensionsUsed": [NAME], "scene": 0,
        "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}], "meshes": [{"primitives": [primitive]}],
        "buffers": [{"byteLength": at}], "bufferViews": views, "accessors": accessors,
    }  # fmt: skip
    return _packed(document, b"".join(chunks))


def _packed(document: dict[str, Any], body: bytes) -> bytes:
    """A binary glTF of a JSON chunk and a binary one."""
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    body += bytes(-len(body) % 4)
    head = struct.pack("<4sII", MAGIC, 2, 28 + len(text) + len(body)) + struct.pack("<I4s", len(text), b"JSON")
    return b"".join([head, text, struct.pack("<I4s", len(body), b"BIN\0"), body])


def rewrite_gltf(source: Path, out: Path, columns: Mapping[str, NDArray[Any]]) -> Path:
    """Write the .glb `source` to `out` with `columns` (name -> [N]) as attributes _NAME of its Gaussians.

    Application-specific attributes start with an underscore and viewers pass over them (glTF 2.0, 3.7.2.1). Numbers are
    stored as floats: whole numbers keep their value up to 2^24. All other bytes stay as they are.
    """
    gltf = open_gltf(source)
    primitives = [primitive for primitive, _ in splat_primitives(gltf)]
    body = bytearray(gltf.buffer(0).tobytes()[: int(gltf.item("buffers", 0).get("byteLength", 0))])
    row = 0
    for primitive in primitives:
        attributes = primitive["attributes"]
        count = int(gltf.item("accessors", attributes["POSITION"])["count"])
        for name, values in columns.items():
            part = np.ascontiguousarray(np.asarray(values)[row : row + count], "<f4")
            body += bytes(-len(body) % 4)
            view = {"buffer": 0, "byteOffset": len(body), "byteLength": part.nbytes, "target": 34962}
            body += part.tobytes()
            gltf.list_of("bufferViews").append(view)
            entry = {"bufferView": len(gltf.list_of("bufferViews")) - 1, "componentType": 5126, "count": count}
            gltf.list_of("accessors").append(entry | {"type": "SCALAR"})
            attributes[f"_{name.upper()}"] = len(gltf.list_of("accessors")) - 1
        row += count
    gltf.item("buffers", 0)["byteLength"] = len(body)
    write_bytes_atomically(out, _packed(gltf.data, bytes(body)))
    return out


def gltf_columns(path: Path) -> dict[str, NDArray[Any]]:
    """The attributes _NAME with one number per Gaussian, by name in small letters."""
    gltf = open_gltf(path)
    parts: list[dict[str, NDArray[Any]]] = []
    for primitive, _ in splat_primitives(gltf):
        own = {}
        for name, number in primitive["attributes"].items():
            if name.startswith("_") and gltf.item("accessors", number).get("type") == "SCALAR":
                own[name[1:].lower()] = accessor(gltf, number, 1, name)[:, 0]
        parts.append(own)
    common = set.intersection(*(set(part) for part in parts))
    return {name: np.concatenate([part[name] for part in parts]) for name in sorted(common)}
