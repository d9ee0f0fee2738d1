"""Coloured point clouds as scenes: .ply (also ascii and meshes), .npy tables and structured arrays, .npz archives."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.errors import SceneError
from chorus_common.scene import GaussianScene
from chorus_common.scene_io.archive import check_member, open_zip
from chorus_common.scene_io.bounds import MAX_GAUSSIANS, check_count, check_finite, fail, scene_name, too_far
from chorus_common.scene_io.inria_ply import RGB, id_columns, unit_normals
from chorus_common.scene_io.npy import npy_header, open_npy
from chorus_common.scene_io.ply import PlyElement, PlyHeader, columns, read_ply_element
from chorus_common.scene_io.point_gaussians import PointCloudOptions, points_to_gaussians

_XYZ = ("x", "y", "z")
_NORMAL = (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z"))

#: Names of arrays (of an .npz, or fields of a structured .npy) -> what they hold; the first one present counts.
_NAMES = {
    "points": ("points", "xyz", "means", "means3d", "coord", "coords", "positions"),
    "colors": ("colors", "rgb", "color"),
    "normals": ("normals", "normal"),
    "labels": ("labels", "label", "segment", "semantic"),
    "instances": ("instances", "instance"),
    "parts": ("parts", "part"),
}


def point_colors(path: Path, vertex: PlyElement) -> tuple[str, ...]:
    """The three colour properties of a vertex element of points; SceneError where it is none."""
    rgb = next((names for names in RGB if all(name in vertex.properties for name in names)), None)
    if rgb is None or any(name not in vertex.properties for name in _XYZ):
        fail(
            path,
            "vertices are neither Gaussians (opacity, scale_0, ...) nor coloured points (x, y, z, red, green, blue)",
        )
    return rgb


def read_point_ply(
    path: Path,
    header: PlyHeader,
    *,
    max_gaussians: int = MAX_GAUSSIANS,
    label_space: str = "",
    options: PointCloudOptions | None = None,
) -> GaussianScene:
    """Read the vertices of `path` (x y z, red green blue, optional normals, label, instance) as Gaussians."""
    vertex = header.element("vertex")
    assert vertex is not None
    check_count(path, vertex.count, max_gaussians, "points")
    rgb = point_colors(path, vertex)
    table = read_ply_element(path, header, "vertex")
    # an ascii table is parsed as floats: the declared type, not the parsed one, says what range the colours have
    colors = columns(table, rgb, np.dtype(vertex.properties[rgb[0]]).type)
    normal = next((names for names in _NORMAL if all(name in vertex.properties for name in names)), None)
    found: dict[str, Any] = {"normals": columns(table, normal)} if normal else {}
    found |= id_columns(path, table, vertex)
    return _scene(path, columns(table, _XYZ, np.float64), colors, found, label_space, options)


def count_npy(path: Path) -> int:
    """Number of points of a .npy table, from its header."""
    array = open_npy(path)
    return len(array) if array.ndim else 0


def read_point_npy(
    path: Path,
    *,
    max_gaussians: int = MAX_GAUSSIANS,
    label_space: str = "",
    options: PointCloudOptions | None = None,
) -> GaussianScene:
    """Read a table [N, >= 6] (x, y, z, r, g, b; further columns are not looked at) or a structured array [N]."""
    array = open_npy(path)
    check_count(path, len(array) if array.ndim else 0, max_gaussians, "points")
    if array.dtype.names is not None and array.ndim == 1:
        fields = array.dtype.names
        plain = [name for name in fields if array.dtype[name].kind in "fiu"]  # no text, no arrays within a field
        rgb = next((names for names in RGB if all(name in plain for name in names)), None)
        if all(name in plain for name in _XYZ) and rgb is not None:
            named = {name: array[name] for name in fields if name not in _XYZ and name not in rgb}
            named["points"] = columns(array, _XYZ, np.float64)
            named["colors"] = columns(array, rgb, array.dtype[rgb[0]].type)
        else:
            named = {name: array[name] for name in fields}
        return _from_named(path, named, label_space, options)
    if array.dtype.names is not None or array.ndim != 2 or array.shape[1] < 6 or array.dtype.kind not in "fiu":
        fail(
            path,
            f"holds {array.dtype} of shape {array.shape}; expected a table [N, 6] (x, y, z, r, g, b) or named fields",
        )
    return _scene(path, np.array(array[:, :3], np.float64), np.array(array[:, 3:6]), {}, label_space, options)


def count_npz(path: Path) -> int:
    """Number of points of an .npz archive, from the header of its array of points."""
    with open_zip(path, "an .npz archive") as archive:
        member = _members(archive).get("points")
        if member is None:
            fail(path, f"has no array of points (one of {', '.join(_NAMES['points'])})")
        return _zip_header(path, archive, member)[0]


def read_point_npz(
    path: Path,
    *,
    max_gaussians: int = MAX_GAUSSIANS,
    label_space: str = "",
    options: PointCloudOptions | None = None,
) -> GaussianScene:
    """Read an .npz with arrays named e.g. points, colors, normals, labels; arrays of other names are never inflated."""
    check_count(path, count_npz(path), max_gaussians, "points")
    with open_zip(path, "an .npz archive") as archive:
        named = {key: _zip_array(path, archive, member) for key, member in _members(archive).items()}
    return _from_named(path, named, label_space, options)


# ---- from named arrays to a scene ------------------------------------------------------------------------------------


def _from_named(
    path: Path, arrays: Mapping[str, NDArray[Any]], label_space: str, options: PointCloudOptions | None
) -> GaussianScene:
    found: dict[str, Any] = {}
    for key, names in _NAMES.items():
        if (name := next((name for name in (key, *names) if name in arrays), None)) is not None:
            found[key] = arrays[name]
    for key in ("points", "colors"):
        if key not in found:
            fail(path, f"has no {key} (an array or field called one of {', '.join(_NAMES[key])})")
    points = np.asarray(found.pop("points"))
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "fiu":
        fail(path, f"points have shape {points.shape}, expected [N, 3]")
    colors = np.asarray(found.pop("colors"))
    for key, value in list(found.items()):
        if key == "normals":
            if value.dtype.kind not in "fiu":
                fail(path, f"{key} are {value.dtype}, expected numbers")
            found[key] = np.asarray(value, np.float32)
        elif value.dtype.kind not in "iu":
            fail(path, f"{key} are {value.dtype}, expected integers")
        else:
            found[key] = _ids(path, key, np.asarray(value).reshape(len(value), -1)[:, 0])
    return _scene(path, points.astype(np.float64), colors, found, label_space, options)


def _ids(path: Path, key: str, values: NDArray[np.integer]) -> NDArray[np.int32]:
    limits = np.iinfo(np.int32)
    if len(values) and not (values.min() >= limits.min and values.max() <= limits.max):
        fail(path, f"{key} run from {values.min()} to {values.max()}, beyond 32 bits")
    return values.astype(np.int32)


def _scene(
    path: Path,
    points: NDArray[np.float64],
    colors: NDArray[Any],
    found: dict[str, Any],
    label_space: str,
    options: PointCloudOptions | None,
) -> GaussianScene:
    shape = (len(points), 3)
    for key, value in (("colors", colors), ("normals", found.get("normals"))):
        if value is not None and (value.shape != shape or value.dtype.kind not in "fiu"):
            fail(path, f"{key} have shape {value.shape}, expected {shape}")
    for key in ("labels", "instances", "parts"):
        if key in found and len(found[key]) != len(points):
            fail(path, f"has {len(found[key])} {key} for {len(points)} points")
    check_finite(path, points=points, colors=colors)
    if (outliers := too_far(points)) is not None:
        found["outliers"] = outliers
    normals = found.pop("normals", None)
    if normals is not None:
        normals = unit_normals(path, normals)
    try:
        scene = points_to_gaussians(
            points, colors, normals, options, **found, name=scene_name(path), label_space=label_space
        )
    except SceneError as error:
        fail(path, str(error))
    # A point that lies too far stretches the spacing, and with it the size, of points that do not.
    outliers = too_far(scene.means, scene.scales)
    return scene if outliers is None else replace(scene, outliers=outliers)


# ---- zip archives ----------------------------------------------------------------------------------------------------


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """What each wanted member holds -> the member."""
    by_name = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    found = {key: next((by_name[name] for name in names if name in by_name), None) for key, names in _NAMES.items()}
    return {key: member for key, member in found.items() if member is not None}


def _zip_header(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[int, ...]:
    """Shape of a member, from its header alone."""
    return _zip_read(path, archive, member, header_only=True).shape


def _zip_array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """A member's array."""
    return _zip_read(path, archive, member, header_only=False)


def _zip_read(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, *, header_only: bool) -> NDArray[Any]:
    """A member's array; with `header_only` a view of one zero in the right shape, which takes no memory.

    A member's declared size must be one that its compressed bytes can reach, its compressed bytes must lie in the
    file, and the array must fit its declared size; only then is anything inflated, and never more than was declared.
    """
    what = f"array {member.filename}"
    check_member(path, member, what)
    try:
        with archive.open(member) as handle:
            dtype, shape, fortran, _ = npy_header(handle, path, member.file_size)
            if not shape or shape[0] < 1:
                fail(path, f"{what} is empty")
            if header_only:
                return np.broadcast_to(np.zeros((), dtype), shape)
            data = handle.read(math.prod(shape) * dtype.itemsize)
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    except SceneError:
        raise
    except Exception as error:  # zipfile and zlib raise a dozen types on damaged members
        fail(path, f"{what} is damaged: {error}")
