"""Gaussians in glTF 2.0 (.glb, .gltf): point primitives with the extension KHR_gaussian_splatting.

Layout (KhronosGroup/glTF extensions/2.0/Khronos/KHR_gaussian_splatting): attributes POSITION,
KHR_gaussian_splatting:ROTATION (x, y, z, w), :SCALE (linear; drafts of the extension held its logarithm, which is
recognised by its negative values), :OPACITY in [0, 1], :SH_DEGREE_l_COEF_n (r, g, b); nodes move and turn them. glTF's
axes are y up and z to the front; half a turn about z gives those of .ply (y down, z forward), as
playcanvas/splat-transform writes and reads them.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.harmonics import turned_harmonics
from chorus_common.rotations import quat_from_rotation
from chorus_common.scene import SH_C0, GaussianScene, quat_product
from chorus_common.scene_io.archive import SceneFolder
from chorus_common.scene_io.bounds import MAX_GAUSSIANS, check_count, fail, finish, scene_name
from chorus_common.scene_io.ksplat import joined_columns

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

NAME = "KHR_gaussian_splatting"
MAGIC = b"glTF"
#: glTF's y up, z front to .ply's y down, z forward.
TO_PLY = np.diag([-1.0, -1.0, 1.0, 1.0])

_TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_MAX_JSON = 256 << 20
_MAX_NODES = 100_000


@dataclass(frozen=True, eq=False)
class Gltf:
    """A parsed file: its JSON, and its buffers by number as far as they were asked for."""

    path: Path
    data: dict[str, Any]
    binary: NDArray[np.uint8]
    loaded: dict[int, NDArray[np.uint8]]

    def list_of(self, key: str) -> list[Any]:
        """The array `key` of the JSON, empty where it is missing."""
        value = self.data.get(key, [])
        if not isinstance(value, list):
            fail(self.path, f"{key} is not a list")
        return value

    def item(self, key: str, number: Any) -> dict[str, Any]:
        """Entry `number` of the array `key`; SceneError where there is none."""
        values = self.list_of(key)
        if type(number) is not int or not 0 <= number < len(values) or not isinstance(values[number], dict):
            fail(self.path, f"refers to {key} number {number!r:.20}, which is not there")
        return values[number]

    def buffer(self, number: Any) -> NDArray[np.uint8]:
        """The bytes of buffer `number`: the binary chunk, a data URI or a file beside this one."""
        if number not in self.loaded:
            self.loaded[number] = self._load(self.item("buffers", number))
        return self.loaded[number]

    def _load(self, entry: dict[str, Any]) -> NDArray[np.uint8]:
        uri = entry.get("uri")
        if uri is None:
            return self.binary
        if not isinstance(uri, str):
            fail(self.path, "a buffer's uri is no text")
        if uri.startswith("data:"):
            try:
                return np.frombuffer(base64.b64decode(uri.partition(",")[2], validate=True), np.uint8)
            except ValueError:
                fail(self.path, "a buffer's data URI is damaged")
        return np.frombuffer(SceneFolder(self.path.parent).read(uri), np.uint8)


def is_gltf(path: Path, head: bytes) -> bool:
    """Whether a file that starts with `head` is glTF."""
    return head[:4] == MAGIC or path.suffix.lower() == ".gltf"


def open_gltf(path: Path) -> Gltf:
    """Parse `path`; the binary chunk is mapped, not copied."""
    size = path.stat().st_size
    with open(path, "rb") as handle:
        head = handle.read(20)
        if head[:4] != MAGIC:
            if size > _MAX_JSON:
                fail(path, f"has {size} bytes of JSON, more than {_MAX_JSON}")
            text, binary = head + handle.read(), np.empty(0, np.uint8)
        else:
            if len(head) < 20:
                fail(path, "ends inside its header; truncated?")
            version, _, length, kind = struct.unpack("<4I", head[4:20])
            if version != 2 or kind != 0x4E4F534A or length > min(size - 20, _MAX_JSON):
                fail(path, f"is no glTF 2.0 file, or its header is damaged (version {version}, {length} bytes of JSON)")
            text = handle.read(length)
            start = 20 + length + 8
            binary = np.memmap(path, np.uint8, "r", start, (size - start,)) if size > start else np.empty(0, np.uint8)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        fail(path, f"its JSON is not valid: {' '.join(str(error).split())[:80]}")
    if not isinstance(data, dict):
        fail(path, "its JSON is not an object")
    return Gltf(path, data, binary, {})


def splat_primitives(gltf: Gltf) -> list[tuple[dict[str, Any], F64]]:
    """The primitives that hold Gaussians, in the order of the nodes, each with its node's matrix [4, 4].

    Raises SceneError where there are none.
    """
    found = []
    for mesh, matrix in _meshes(gltf):
        primitives = gltf.item("meshes", mesh).get("primitives")
        for primitive in primitives if isinstance(primitives, list) else []:
            extensions = primitive.get("extensions") if isinstance(primitive, dict) else None
            own = extensions.get(NAME) if isinstance(extensions, dict) else None
            if not isinstance(own, dict):
                continue
            inner = own.get("extensions")
            if isinstance(inner, dict) and inner:
                fail(
                    gltf.path,
                    f"its Gaussians are packed by {min(inner)}, which is not read; "
                    "convert it: npx @playcanvas/splat-transform IN OUT.ply",
                )
            found.append((primitive, matrix))
    if not found:
        fail(gltf.path, f"holds no Gaussians (no primitive has the extension {NAME})")
    return found


def _meshes(gltf: Gltf) -> Iterator[tuple[Any, F64]]:
    """Mesh numbers of the default scene's nodes with the nodes' matrices, depth first."""
    scenes = gltf.list_of("scenes")
    roots = (
        gltf.item("scenes", gltf.data.get("scene", 0)).get("nodes", []) if scenes else range(len(gltf.list_of("nodes")))
    )
    if not isinstance(roots, (list, range)):
        fail(gltf.path, "a scene's nodes are no list")
    waiting: list[tuple[Any, F64]] = [(number, np.eye(4)) for number in reversed(roots)]
    for _ in range(_MAX_NODES):
        if not waiting:
            return
        number, above = waiting.pop()
        node = gltf.item("nodes", number)
        matrix = above @ _node_matrix(gltf.path, node)
        children = node.get("children", [])
        if not isinstance(children, list):
            fail(gltf.path, "a node's children are no list")
        waiting += [(child, matrix) for child in reversed(children)]
        if "mesh" in node:
            yield node["mesh"], matrix
    fail(gltf.path, f"has more than {_MAX_NODES} nodes, or nodes that contain themselves")


def _node_matrix(path: Path, node: dict[str, Any]) -> F64:
    def numbers(key: str, default: list[float]) -> F64:
        value = node.get(key, default)
        if not isinstance(value, list) or len(value) != len(default):
            fail(path, f"a node's {key} is damaged")
        if not all(type(v) in (int, float) and abs(v) < 1e9 for v in value):
            fail(path, f"a node's {key} is damaged")
        return np.array(value, np.float64)

    if "matrix" in node:
        return numbers("matrix", [0.0] * 16).reshape(4, 4).T  # stored column after column
    x, y, z, w = numbers("rotation", [0.0, 0.0, 0.0, 1.0])
    square = x * x + y * y + z * z + w * w
    if not 0.5 < square < 2:
        fail(path, "a node's rotation is no unit quaternion")
    rotation = np.array(
        [[1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
         [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
         [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]]
    )  # fmt: skip
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * numbers("scale", [1.0, 1.0, 1.0])
    matrix[:3, 3] = numbers("translation", [0.0, 0.0, 0.0])
    return matrix


def accessor(gltf: Gltf, number: Any, width: int, what: str) -> NDArray[Any]:
    """Accessor `number` as [count, width], normalised integers as floats; SceneError where its bytes are not there."""
    path, entry = gltf.path, gltf.item("accessors", number)
    count, code, kind = entry.get("count"), entry.get("componentType"), entry.get("type")
    if type(count) is not int or count < 0 or code not in _TYPES or _WIDTHS.get(str(kind)) != width:
        fail(path, f"{what} is of a kind that cannot be read ({kind!r:.20}, {code!r:.20}, {count!r:.20})")
    if "sparse" in entry or "bufferView" not in entry:
        fail(path, f"{what} is a sparse accessor, which is not read")
    view = gltf.item("bufferViews", entry["bufferView"])
    dtype = np.dtype(_TYPES[code])
    row = dtype.itemsize * width
    values = [
        entry.get("byteOffset", 0),
        view.get("byteOffset", 0),
        view.get("byteLength"),
        view.get("byteStride", row),
    ]
    if not all(type(v) is int and 0 <= v < 2**48 for v in values):
        fail(path, f"{what} has damaged offsets")
    offset, start, length, stride = values
    data = gltf.buffer(view.get("buffer"))
    if stride < row or start + length > len(data) or (count and offset + stride * (count - 1) + row > length):
        fail(path, f"{what} declares {count} rows, more than its bytes hold; truncated?")
    raw = np.ndarray((count, width), dtype, data, start + offset, (stride, dtype.itemsize))
    if entry.get("normalized") and dtype.kind != "f":
        return np.maximum(raw.astype(np.float32) / np.iinfo(dtype).max, -1 if dtype.kind == "i" else 0)
    return np.array(raw)


def count_gltf(path: Path) -> int:
    """Number of Gaussians, from the JSON."""
    gltf = open_gltf(path)
    total = 0
    for primitive, _ in splat_primitives(gltf):
        count = gltf.item("accessors", _attributes(path, primitive).get("POSITION")).get("count")
        total += count if type(count) is int else 0
    return total


def read_gltf(
    path: Path, *, max_gaussians: int = MAX_GAUSSIANS, label_space: str = "", harmonics: bool = False
) -> GaussianScene:
    """Read the Gaussians of `path`: all primitives, one after the other, turned from glTF's axes to those of .ply."""
    gltf = open_gltf(path)
    check_count(path, count_gltf(path), max_gaussians)
    parts = [_columns(gltf, primitive, matrix, harmonics) for primitive, matrix in splat_primitives(gltf)]
    columns = moved(path, joined_columns(parts), TO_PLY)
    return finish(path, **columns, name=scene_name(path), label_space=label_space)


def _attributes(path: Path, primitive: dict[str, Any]) -> dict[str, Any]:
    attributes = primitive.get("attributes")
    if not isinstance(attributes, dict):
        fail(path, "a primitive has no attributes")
    return attributes


def _columns(gltf: Gltf, primitive: dict[str, Any], matrix: F64, harmonics: bool) -> dict[str, Any]:
    """Columns of one primitive, moved by its node's matrix."""
    path, attributes = gltf.path, _attributes(gltf.path, primitive)

    def column(name: str, width: int) -> F32:
        if name not in attributes:
            fail(path, f"its Gaussians lack the attribute {name}")
        values = accessor(gltf, attributes[name], width, name).astype(np.float32)
        if len(values) != n:
            fail(path, f"{name} has {len(values)} rows, POSITION {n}")
        return values

    n = len(accessor(gltf, attributes.get("POSITION"), 3, "POSITION"))
    scales = column(f"{NAME}:SCALE", 3)
    if n and scales.min() < 0:
        scales = np.exp(np.minimum(scales, 80))
    columns: dict[str, Any] = {
        "means": column("POSITION", 3), "scales": scales,
        "quats": column(f"{NAME}:ROTATION", 4)[:, [3, 0, 1, 2]],
        "opacities": column(f"{NAME}:OPACITY", 1)[:, 0],
    }  # fmt: skip
    linear = primitive["extensions"][NAME].get("colorSpace") == "lin_rec709_display"
    dc = f"{NAME}:SH_DEGREE_0_COEF_0"
    colors = column(dc, 3) * np.float32(SH_C0) + np.float32(0.5) if dc in attributes else _color_0(gltf, attributes, n)
    columns["colors"] = _to_srgb(colors) if linear else colors
    rest = _rest_names(path, attributes) if harmonics else []
    if rest and linear:
        fail(path, "holds view-dependent colour in linear light, which cannot be taken over")
    if rest:
        columns["harmonics"] = np.stack([column(name, 3) for name in rest], axis=1)  # [n, K, 3]
    return moved(path, columns, matrix)


def _rest_names(path: Path, attributes: dict[str, Any]) -> list[str]:
    """The attributes of degrees 1 up to the last that is there."""
    names: list[str] = []
    for degree in range(1, 5):
        band = [f"{NAME}:SH_DEGREE_{degree}_COEF_{n}" for n in range(2 * degree + 1)]
        there = [name in attributes for name in band]
        if not any(there):
            break
        if not all(there):
            fail(path, f"has only some of the harmonics of degree {degree}")
        names += band
    return names


def _color_0(gltf: Gltf, attributes: dict[str, Any], n: int) -> F32:
    """The fallback colour, which glTF keeps in linear light."""
    kind = gltf.item("accessors", attributes.get("COLOR_0")).get("type")
    values = accessor(gltf, attributes["COLOR_0"], 4 if kind == "VEC4" else 3, "COLOR_0")
    if len(values) != n:
        fail(gltf.path, f"COLOR_0 has {len(values)} rows, POSITION {n}")
    return _to_srgb(values[:, :3].astype(np.float32))


def _to_srgb(linear: F32) -> F32:
    """The sRGB transfer function (IEC 61966-2-1)."""
    value = np.clip(linear, 0, 1)
    return np.where(value <= 0.0031308, 12.92 * value, 1.055 * value ** (1 / 2.4) - 0.055).astype(np.float32)


def moved(path: Path, columns: dict[str, Any], matrix: F64) -> dict[str, Any]:
    """`columns` under a node's matrix, which may move, turn, mirror and scale evenly."""
    linear, shift = matrix[:3, :3], matrix[:3, 3]
    size = float(np.cbrt(abs(np.linalg.det(linear))))
    if size < 1e-9 or np.abs(linear @ linear.T / size**2 - np.eye(3)).max() > 1e-4:
        fail(path, "a node stretches or shears its Gaussians, which is not read; apply its transform first")
    turn = linear / size
    if np.abs(matrix - np.eye(4)).max() == 0:
        return columns
    out = dict(columns)
    out["means"] = (columns["means"].astype(np.float64) @ linear.T + shift).astype(np.float32)
    out["scales"] = columns["scales"] * np.float32(size)
    # a Gaussian is its own mirror image about its centre, so a mirror may be turned into a rotation
    out["quats"] = quat_product(quat_from_rotation(turn * np.sign(np.linalg.det(turn))), columns["quats"])
    if "harmonics" in columns:
        out["harmonics"] = turned_harmonics(columns["harmonics"], turn)
    return out
