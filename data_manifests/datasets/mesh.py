"""Vertices of a coloured triangle mesh (.ply), and their normals."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.scene_io.bounds import MAX_GAUSSIANS, check_count, check_finite, check_fits, fail
from chorus_common.scene_io.ply import PlyHeader, columns, read_ply_element, read_ply_header
from data_manifests.datasets.arrays import unit_or_up

_XYZ, _RGB = ("x", "y", "z"), ("red", "green", "blue")

#: The faces of a mesh as all scanners write them: a byte that says 3, three 32-bit indices, and 32-bit numbers of the
#: face where there are some.
_TRIANGLES = re.compile(
    rb"element face (\d+)\r?\nproperty list (?:uchar|uint8) (?:int|uint|int32|uint32) vertex_ind(?:ices|ex)\r?\n"
    rb"((?:property (?:int|int32) \w+\r?\n)*)(?=element|end_header|comment)"
)


@dataclass(frozen=True, eq=False)
class Faces:
    """Triangles of a mesh: `corners` [F, 3] vertex indices, and what else the file says of each, by name [F] i64."""

    corners: NDArray[np.int64]
    columns: Mapping[str, NDArray[np.int64]]


def read_mesh(path: Path) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32] | None]:
    """coord [M, 3] m, color [M, 3], normal [M, 3] of the vertices, in file order; normals are None where the faces are
    no plain binary triangles.

    Raises SceneError: missing, truncated, without colours, with values that are not finite.
    """
    if not path.is_file():
        fail(path, "no such mesh")
    header = read_ply_header(path)
    vertex = header.element("vertex")
    if vertex is None or any(name not in vertex.properties for name in (*_XYZ, *_RGB)):
        fail(path, "has no vertices with x, y, z, red, green, blue")
    check_count(path, vertex.count, MAX_GAUSSIANS, "vertices")
    table = read_ply_element(path, header, "vertex")
    coord = columns(table, _XYZ)
    check_finite(path, vertices=coord)
    color = columns(table, _RGB, np.uint8)
    faces = _triangles(path, header, len(coord))
    return coord, color, None if faces is None else vertex_normals(coord, faces.corners)


def read_faces(path: Path, n_vertices: int, wanted: tuple[str, ...] = ()) -> Faces:
    """The triangles of the mesh at `path`, in file order.

    Raises SceneError: they are no plain binary triangles, are cut off, name a vertex that is not there, or lack one of
    the `wanted` numbers.
    """
    faces = _triangles(path, read_ply_header(path), n_vertices)
    if faces is None:
        fail(path, "has no plain binary triangles, which carry its labels")
    for name in wanted:
        if name not in faces.columns:
            fail(path, f"its faces have no {name}; is it a segmentation's mesh?")
    return faces


def vertex_normals(coord: NDArray[np.floating], faces: NDArray[np.integer]) -> NDArray[np.float32]:
    """Unit normals [M, 3]: the mean of the normals of a vertex's `faces` [F, 3], weighted by area; up without faces."""
    corner = coord.astype(np.float64)[faces]  # [F, 3 corners, 3]
    area = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])  # [F, 3], twice the area long
    sums = np.empty((len(coord), 3))
    for axis in range(3):
        # one count over all corners adds the faces in their order: the same sums on every machine
        sums[:, axis] = np.bincount(faces.ravel(), np.repeat(area[:, axis], 3), len(coord))
    return unit_or_up(sums)


def _triangles(path: Path, header: PlyHeader, n_vertices: int) -> Faces | None:
    """Faces that follow the vertices; None where there are none of the usual kind."""
    names = [element.name for element in header.elements]
    with open(path, "rb") as handle:
        match = _TRIANGLES.search(handle.read(header.size))
    if match is None or names[:2] != ["vertex", "face"] or header.order not in ("<", ">"):
        return None
    vertex = header.elements[0]
    more = [line.split()[-1].decode("ascii") for line in match.group(2).splitlines()]
    if len(set(more)) < len(more) or {"n", "v"} & set(more):
        return None
    number = f"{header.order}i4"
    row = np.dtype([("n", "u1"), ("v", number, 3), *((name, number) for name in more)])
    width = sum(np.dtype(code).itemsize for code in vertex.properties.values())
    offset, count = header.size + vertex.count * width, int(match.group(1))
    if count == 0:
        return None
    check_fits(path, count, row.itemsize, path.stat().st_size - offset, "element face")
    faces = np.memmap(path, row, "r", offset, (count,))
    if (faces["n"] != 3).any():
        return None
    corners = faces["v"].astype(np.int64)
    if corners.min() < 0 or corners.max() >= n_vertices:
        fail(path, f"a face names vertex {int(corners.max())}, but there are {n_vertices}")
    return Faces(corners, {name: faces[name].astype(np.int64) for name in more})
