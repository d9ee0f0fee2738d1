"""What was found out about each Gaussian, written into the user's own file: same rows, everything else as it was.

A .ply (also packed) gets further properties of its vertices, an .spz an extension record, a .sog further pictures
listed in meta.json, a .glb further attributes, a SceneSplat folder further arrays. Formats without room (.splat,
.ksplat, a streamed scene, tables of points) become a .ply with all that was read from them.

Predicted columns have names of their own. No reader takes them for ground truth or for colours.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.atomic import atomic_path
from chorus_common.runtime.errors import SceneError
from chorus_common.scene_io.bounds import MAX_GAUSSIANS, scene_name
from chorus_common.scene_io.gltf_write import gltf_columns, rewrite_gltf
from chorus_common.scene_io.inria_ply import TRUTH_NAMES, write_ply
from chorus_common.scene_io.npy import open_npy
from chorus_common.scene_io.ply import columns as ply_column
from chorus_common.scene_io.ply import read_ply_element, read_ply_header
from chorus_common.scene_io.ply_rewrite import rewrite_ply
from chorus_common.scene_io.read import probe, read_scene
from chorus_common.scene_io.sog_write import rewrite_sog, sog_columns
from chorus_common.scene_io.spz_write import rewrite_spz, spz_columns

#: Names of what a prediction says: class index in the label space of labels.json, object number (-1: none), and how
#: sure it is, 0 to 1.
CLASS, INSTANCE, CONFIDENCE = "predicted_class", "predicted_instance", "predicted_confidence"
#: The row of the user's file that a row of a part of it came from.
SOURCE_ROW = "source_row"

_PREFIX = "predicted_"


def write_properties(
    source: str | Path,
    columns: Mapping[str, NDArray[Any]],
    folder: str | Path,
    *,
    name: str | None = None,
    lod: int = 0,
    max_gaussians: int = MAX_GAUSSIANS,
) -> Path:
    """Write the scene `source` into `folder`, with `columns` for each of its rows; return the path written.

    Args:
        columns: name -> [N], N = rows of the file in its order; whole numbers or floats.
        name: of the file, without ending; None: the scene's. lod: level of a streamed scene.

    Raises:
        SceneError: a column has another length, or a name that readers take for ground truth.
    """
    source, folder = Path(source), Path(folder)
    found = probe(source, lod=lod)
    _check_columns(source, columns, found.n_gaussians)
    stem = name if name is not None else scene_name(source.resolve().parent if source.suffix == ".json" else source)
    folder.mkdir(parents=True, exist_ok=True)
    match found.format:
        case "compressed-ply":
            return rewrite_ply(source, folder / f"{stem}.compressed.ply", columns)
        case "inria-ply" | "point-ply":
            return rewrite_ply(source, folder / f"{stem}.ply", columns)
        case "spz":
            return rewrite_spz(source, folder / f"{stem}.spz", columns)
        case "sog":
            unpacked = source.is_dir() or source.suffix == ".json"
            return rewrite_sog(source, folder / (stem if unpacked else f"{stem}.sog"), columns)
        case "gltf" if source.suffix.lower() == ".glb":
            return rewrite_gltf(source, folder / f"{stem}.glb", columns)
        case "npy-folder":
            return _rewrite_npy_folder(source, folder / stem, columns)
    scene = read_scene(source, harmonics=True, lod=lod, max_gaussians=max_gaussians)
    plain = write_ply(scene, folder / f"{stem}.ply")
    return rewrite_ply(plain, plain, columns)


def write_part(
    source: str | Path,
    rows: NDArray[np.integer],
    path: str | Path,
    columns: Mapping[str, NDArray[Any]] | None = None,
    *,
    lod: int = 0,
    max_gaussians: int = MAX_GAUSSIANS,
) -> Path:
    """Write the rows `rows` [K] of the scene `source` alone as a .ply at `path`; `source_row` tells which they were.

    Of a .ply with plain vertices every property is kept byte for byte; other formats are decoded, with their harmonics.

    Args:
        columns: further columns of the K rows.
    """
    source, path = Path(source), Path(path)
    added = {SOURCE_ROW: np.asarray(rows, np.int32), **(columns or {})}
    if probe(source, lod=lod).format in ("inria-ply", "point-ply"):
        return rewrite_ply(source, path, added, rows)
    scene = read_scene(source, harmonics=True, lod=lod, max_gaussians=max_gaussians)
    write_ply(scene.select(np.asarray(rows)), path)
    return rewrite_ply(path, path, added)


def read_properties(path: str | Path) -> dict[str, NDArray[Any]]:
    """The columns `predicted_*` and `source_row` of a file that `write_properties` or `write_part` wrote, by name."""
    path = Path(path)
    match probe(path).format:
        case "compressed-ply" | "inria-ply" | "point-ply":
            header = read_ply_header(path)
            vertex = header.element("vertex")
            assert vertex is not None
            table = read_ply_element(path, header, "vertex")
            found = {
                name: ply_column(table, (name,), np.float32 if code[0] == "f" else np.int32)[:, 0]
                for name, code in vertex.properties.items()
            }
        case "spz":
            found = spz_columns(path)
        case "sog":
            found = sog_columns(path)
        case "gltf":
            found = {
                name: values if name == CONFIDENCE else values.astype(np.int32)
                for name, values in gltf_columns(path).items()
            }
        case "npy-folder":
            found = {file.stem: np.array(open_npy(file)) for file in sorted(path.glob("*.npy"))}
        case _:
            found = {}
    return {name: values for name, values in found.items() if name.startswith(_PREFIX) or name == SOURCE_ROW}


def _check_columns(source: Path, columns: Mapping[str, NDArray[Any]], n: int) -> None:
    for name, values in columns.items():
        if name in TRUTH_NAMES or not name.isidentifier() or not name.isascii():
            raise SceneError(f"{source}: a column cannot be called {name!r}; readers would take it for something else")
        if np.shape(values) != (n,):
            raise SceneError(f"{source}: column {name} has shape {np.shape(values)}, the file {n} rows")


def _rewrite_npy_folder(source: Path, out: Path, columns: Mapping[str, NDArray[Any]]) -> Path:
    """A copy of the folder with one more array per column; coord.npy last, as the folder is a scene once it has it."""
    out.mkdir(parents=True, exist_ok=True)
    files = [f for f in sorted(source.iterdir()) if f.is_file() and not f.name.startswith(".")]
    for name, values in columns.items():
        with atomic_path(out / f"{name}.npy") as temporary, open(temporary, "wb") as handle:
            np.save(handle, np.ascontiguousarray(values), allow_pickle=False)
    for file in sorted(files, key=lambda f: f.name == "coord.npy"):
        if file.stem not in columns:
            with atomic_path(out / file.name) as temporary:
                shutil.copyfile(file, temporary)
    return out
