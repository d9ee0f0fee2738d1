"""One scene file from another: .ply, .spz, .sog or .glb."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.errors import SceneError
from chorus_common.scene import GaussianScene
from chorus_common.scene_io.bounds import MAX_GAUSSIANS
from chorus_common.scene_io.gltf_write import write_gltf
from chorus_common.scene_io.inria_ply import PLY_NAMES, TRUTH_NAMES, write_ply
from chorus_common.scene_io.ply import columns as ply_column
from chorus_common.scene_io.ply import numbered, read_ply_element, read_ply_header
from chorus_common.scene_io.ply_rewrite import rewrite_ply
from chorus_common.scene_io.read import probe, read_scene
from chorus_common.scene_io.sog_write import write_sog
from chorus_common.scene_io.source_properties import read_properties, write_properties
from chorus_common.scene_io.spz_write import write_spz

_WRITERS: dict[str, Callable[[GaussianScene, Path], Path]] = {
    ".ply": write_ply, ".spz": write_spz, ".sog": write_sog, ".glb": write_gltf,
}  # fmt: skip


@dataclass(frozen=True)
class Conversion:
    """What was written, how many Gaussians, and what of the source the new format has no room for."""

    path: Path
    format: str
    n_gaussians: int
    lost: tuple[str, ...]


def convert(
    source: str | Path,
    out: str | Path,
    *,
    lod: int = 0,
    max_gaussians: int = MAX_GAUSSIANS,
    keep_outliers: bool = True,
) -> Conversion:
    """Write the scene `source` as `out`, whose ending says the format. Rows keep their order.

    A .ply made from a .ply keeps every property of its vertices, whatever it is called; columns of predictions go into
    every format.

    Args:
        lod: level of a streamed scene. keep_outliers: whether rows that lie too far for any scene are written.

    Raises:
        SceneError: `source` cannot be read, or `out` has another ending.
    """
    source, out = Path(source), Path(out)
    writer = _WRITERS.get(out.suffix.lower())
    if writer is None:
        raise SceneError(f"{out}: scenes are written as {', '.join(_WRITERS)}; the ending says which")
    found = probe(source, lod=lod)
    if out.exists() and out.resolve() == source.resolve():
        raise SceneError(f"{out}: is the source itself; give another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    scene = read_scene(source, lod=lod, max_gaussians=max_gaussians, harmonics=True)
    if not keep_outliers:
        scene = scene.without_outliers()
    whole = len(scene) == found.n_gaussians
    if found.format == "inria-ply" and out.suffix.lower() == ".ply":
        rewrite_ply(source, out, {}, None if whole else scene.source_ids)
        return Conversion(out, "ply", len(scene), ())
    added = {name: values[scene.source_ids] for name, values in own_properties(source, found.format).items()}
    predicted = {name: values for name, values in added.items() if name.startswith("predicted_")}
    kind = out.suffix.lower()[1:]
    lost = sorted(set(added) - set(predicted)) if kind != "ply" else []
    if kind != "ply":
        lost += [key for key in ("labels", "instances", "parts", "normals") if getattr(scene, key) is not None]
    writer(scene, out)
    if kind == "ply" and added:
        rewrite_ply(out, out, added)
    elif predicted:
        with_columns = write_properties(out, predicted, out.parent, name=f".columns-{out.stem}")
        with_columns.replace(out)
    return Conversion(out, kind, len(scene), tuple(lost))


def own_properties(source: Path, kind: str) -> dict[str, NDArray[Any]]:
    """Per-row properties of `source` that a scene does not hold, by name: its own columns, and predictions."""
    if not kind.endswith("-ply"):
        return read_properties(source)
    header = read_ply_header(source)
    vertex = header.element("vertex")
    assert vertex is not None
    known = {*PLY_NAMES, *TRUTH_NAMES, *numbered(vertex.properties, "f_rest_")}
    names = [name for name in vertex.properties if name not in known]
    table = read_ply_element(source, header, "vertex")
    return {
        name: ply_column(table, (name,), np.float32 if vertex.properties[name][0] == "f" else np.int32)[:, 0]
        for name in names
    }
