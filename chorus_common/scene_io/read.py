"""`read_scene`: which reader a path needs.

`probe`: format and count from headers alone. `write_scene`: folder or .ply.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chorus_common.scene import GaussianScene, RenderMode
from chorus_common.scene_io.bounds import MAX_GAUSSIANS, fail
from chorus_common.scene_io.compressed_ply import check_compressed, is_compressed, read_compressed_ply
from chorus_common.scene_io.gltf import count_gltf, is_gltf, read_gltf
from chorus_common.scene_io.inria_ply import inria_layout, is_inria, read_inria_ply, render_mode, write_ply
from chorus_common.scene_io.ksplat import read_ksplat, read_ksplat_header
from chorus_common.scene_io.npy_folder import count_npy_folder, is_npy_folder, read_npy_folder, write_npy_folder
from chorus_common.scene_io.ply import PlyElement, PlyHeader, read_ply_header
from chorus_common.scene_io.point_cloud import (
    count_npy,
    count_npz,
    point_colors,
    read_point_npy,
    read_point_npz,
    read_point_ply,
)
from chorus_common.scene_io.point_gaussians import PointCloudOptions
from chorus_common.scene_io.sog import META, count_sog, mode_of_sog, read_sog, sog_files
from chorus_common.scene_io.sog_lod import LOD_META, count_sog_lod, lod_folder, read_sog_lod
from chorus_common.scene_io.splat import count_splat, read_splat
from chorus_common.scene_io.spz import read_spz, read_spz_header
from chorus_common.scene_io.unread import refuse_unread


@dataclass(frozen=True)
class Probe:
    """What a path holds, as far as its headers tell: the format's name, the number of Gaussians (or points), and how
    they were rasterised.
    """

    format: str
    n_gaussians: int
    render_mode: RenderMode = RenderMode.CLASSIC


def read_scene(
    path: str | Path,
    *,
    max_gaussians: int = MAX_GAUSSIANS,
    label_space: str = "",
    point_cloud: PointCloudOptions | None = None,
    harmonics: bool = False,
    lod: int = 0,
) -> GaussianScene:
    """Read the scene at `path`, whatever its format (`FORMATS`); the reader is chosen by content, then by suffix.

    Args:
        path: a file, or a folder: SceneSplat's .npy files, or an unpacked or streamed SOG scene.
        max_gaussians: files that declare more are refused before anything is allocated.
        label_space: name of the labels' class table; chooses among several segment files of a folder.
        point_cloud: how points become Gaussians, for point clouds.
        harmonics: whether the higher harmonics are read, too, where the file has them.
        lod: level of detail of a streamed scene, 0 the finest; other formats have no levels.

    Returns:
        Scene in the file's own axes (.spz, .glb: turned to those of .ply), rows in file order. Rows that lie or reach
        too far for any scene are there and flagged (`outliers`).

    Raises:
        SceneError: one line that names the file, and the row where there is one.

    >>> import tempfile
    >>> one = GaussianScene(*(np.array([row]) for row in ([0, 0, 0], [1, 0, 0, 0], [0.1] * 3, 0.5, [1, 0, 0])))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_scene(one, Path(folder) / "one.ply")
    ...     probe(path).format, probe(path).n_gaussians, len(read_scene(path))
    ('inria-ply', 1, 1)
    """
    path = Path(path)
    kind, header = _detect(path)
    options: dict[str, Any] = {"options": point_cloud} if kind.startswith("point-") else {}
    if kind in _WITH_HARMONICS:
        options["harmonics"] = harmonics
    if kind == "sog-lod":
        options["lod"] = lod
    elif lod:
        fail(path, f"is {kind}, which has no levels of detail; leave --lod out")
    headers = (header,) if header is not None else ()
    # values that are not numbers, or overflow when converted, are found by explicit checks which name their row
    with np.errstate(all="ignore"):
        return _READERS[kind](path, *headers, max_gaussians=max_gaussians, label_space=label_space, **options)


def probe(path: str | Path, *, lod: int = 0) -> Probe:
    """Format and count of the scene at `path`, from its headers; the rows themselves are not read or checked.

    lod: level of detail that is counted, where there are several.
    """
    path = Path(path)
    kind, header = _detect(path)
    if header is not None:
        vertex = header.element("vertex")
        assert vertex is not None
        _CHECKS[kind](path, header, vertex)  # what reading would refuse, indexing refuses
        layout = inria_layout(path, vertex) if kind == "inria-ply" else None
        return Probe(kind, vertex.count, render_mode(header.comments, layout))
    if kind == "sog-lod":
        return Probe(kind, count_sog_lod(path, lod))
    if kind == "spz":
        head = read_spz_header(path)
        return Probe(kind, head.count, RenderMode.ANTIALIASED if head.antialiased else RenderMode.CLASSIC)
    return Probe(kind, _COUNTS[kind](path), mode_of_sog(path) if kind == "sog" else RenderMode.CLASSIC)


def is_scene_folder(path: Path) -> bool:
    """Whether the folder `path` is a scene itself: SceneSplat's arrays, an unpacked or a streamed SOG scene."""
    return is_npy_folder(path) or lod_folder(path) is not None or (path / "means_l.webp").is_file()


def write_scene(scene: GaussianScene, path: str | Path) -> Path:
    """Write `scene` as an INRIA .ply if `path` ends in .ply, else as a folder of .npy files."""
    path = Path(path)
    return write_ply(scene, path) if path.suffix.lower() == ".ply" else write_npy_folder(scene, path)


_READERS: dict[str, Callable[..., GaussianScene]] = {
    "npy-folder": read_npy_folder,
    "splat": read_splat,
    "spz": read_spz,
    "ksplat": read_ksplat,
    "sog": read_sog,
    "sog-lod": read_sog_lod,
    "gltf": read_gltf,
    "inria-ply": read_inria_ply,
    "compressed-ply": read_compressed_ply,
    "point-ply": read_point_ply,
    "point-npy": read_point_npy,
    "point-npz": read_point_npz,
}
#: Formats that can hold higher harmonics.
_WITH_HARMONICS = frozenset({"inria-ply", "compressed-ply", "spz", "ksplat", "sog", "sog-lod", "gltf"})
#: What a PLY header must hold to be read.
_CHECKS: dict[str, Callable[[Path, PlyHeader, PlyElement], object]] = {
    "inria-ply": lambda path, header, vertex: inria_layout(path, vertex),
    "compressed-ply": lambda path, header, vertex: check_compressed(path, header),
    "point-ply": lambda path, header, vertex: point_colors(path, vertex),
}
#: Formats without a PLY header, and how each is counted.
_COUNTS: dict[str, Callable[[Path], int]] = {
    "npy-folder": count_npy_folder,
    "splat": count_splat,
    "spz": lambda path: read_spz_header(path).count,
    "ksplat": lambda path: read_ksplat_header(path).count,
    "sog": count_sog,
    "sog-lod": count_sog_lod,
    "gltf": count_gltf,
    "point-npy": count_npy,
    "point-npz": count_npz,
}

#: Names of all formats, as probes and manifests give them.
FORMATS = tuple(_READERS)


def _detect(path: Path) -> tuple[str, PlyHeader | None]:
    if path.is_dir():
        if is_npy_folder(path):
            return "npy-folder", None
        if lod_folder(path) is not None:
            return "sog-lod", None
        if sog_files(path) is not None:
            return "sog", None
        fail(path, "is a folder without coord.npy (SceneSplat) or meta.json (SOG), so not a scene")
    if not path.is_file():
        fail(path, "no such file or folder")
    with open(path, "rb") as handle:
        head = handle.read(8)
    if head[:3] == b"ply":
        header = read_ply_header(path)
        vertex = header.element("vertex")
        if vertex is None:
            fail(path, "has no vertex element")
        if is_compressed(vertex):
            return "compressed-ply", header
        return ("inria-ply" if is_inria(vertex) else "point-ply"), header
    if head[:4] == b"NGSP" or head[:2] == b"\x1f\x8b":
        return "spz", None
    if head[:6] == b"\x93NUMPY":
        return "point-npy", None
    if is_gltf(path, head):
        return "gltf", None
    if path.name == LOD_META:
        return "sog-lod", None
    # what is named like another program's file is not taken for a scene because it is a zip, too
    refuse_unread(path, head)
    if path.name == META or (head[:4] == b"PK\x03\x04" and sog_files(path) is not None):
        return "sog", None
    if head[:4] == b"PK\x03\x04":
        return "point-npz", None
    # these have no magic number: only their name tells
    if path.suffix.lower() in (".splat", ".ksplat"):
        return path.suffix.lower()[1:], None
    fail(
        path,
        "is in no known scene format (.ply, .splat, .ksplat, .spz, .sog, .glb, .npy, .npz, or a folder of .npy or SOG "
        "files); damaged?",
    )
