"""A scene's own file as a .ply in other colours: its rows in its order, every other property and harmonic kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.scene import SH_C0
from chorus_common.scene_io import probe
from chorus_common.scene_io.source_properties import write_part
from evaluation.predictions.coloured_ply import write_coloured_ply
from evaluation.scenes import LoadedScene

#: Rows of the file that are not in the scene.
_LEFT_OUT = 0.82


def write_coloured_file(
    path: Path,
    scene: LoadedScene,
    colors: NDArray[np.floating],
    numbers: Mapping[str, NDArray[Any]],
) -> Path:
    """Write the file of `scene` to the .ply `path` with colours [N, 3] and `numbers` (name -> [N]) of its Gaussians.

    Rows of the file that were left out are grey; their numbers are -1 (whole) or 0. A store does not hold
    the file: where no manifest names it, the Gaussians of the cache are written in the order of the file's rows.
    """
    gaussians = scene.gaussians
    given, lod = scene.where.source, scene.where.lod
    source = given if isinstance(given, Path) else None  # of a bucket's, the Gaussians are written
    if source is not None and (not source.exists() or probe(source, lod=lod).n_gaussians != gaussians.source_rows):
        source = None  # the manifest of a store may outlive its files
    path.parent.mkdir(parents=True, exist_ok=True)
    if source is None:
        order = np.argsort(gaussians.source_ids, kind="stable")
        placed = {name: values[order] for name, values in numbers.items()}
        return write_coloured_ply(path, gaussians.means[order], colors[order], placed, gaussians.select(order))
    rows = gaussians.source_rows
    painted = np.full((rows, 3), _LEFT_OUT, np.float64)
    painted[gaussians.source_ids] = colors
    bytes_ = np.clip(np.rint(painted * 255), 0, 255).astype(np.uint8)
    columns: dict[str, NDArray[Any]] = {name: bytes_[:, i] for i, name in enumerate(("red", "green", "blue"))}
    if probe(source, lod=lod).format != "point-ply":  # points have no harmonics
        columns |= {f"f_dc_{i}": ((painted[:, i] - 0.5) / SH_C0).astype(np.float32) for i in range(3)}
    for name, values in numbers.items():
        full = np.full(rows, -1 if values.dtype.kind in "iu" else 0, values.dtype)
        full[gaussians.source_ids] = values
        columns[name] = full
    return write_part(source, np.arange(rows), path, columns, lod=lod, max_gaussians=scene.where.max_gaussians)
