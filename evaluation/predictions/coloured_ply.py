"""Predictions as .ply files that any point cloud or splat viewer opens.

Vertices carry red, green, blue (point cloud viewers), numbers of their own (a label, a score), and, where the Gaussians
themselves are written, INRIA's columns with the same colour (splat viewers read f_dc_*, opacity, scale_*, rot_*).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.atomic import write_bytes_atomically
from chorus_common.scene import SH_C0, GaussianScene

_PLY_TYPES = {"f4": "float", "u1": "uchar", "i4": "int"}


def write_coloured_ply(
    path: Path,
    coord: NDArray[np.floating],
    colors: NDArray[np.floating],
    numbers: Mapping[str, NDArray[Any]] | None = None,
    splats: GaussianScene | None = None,
) -> Path:
    """Write M vertices.

    Args:
        coord [M, 3] metres; colors [M, 3] in [0, 1]; numbers: name -> [M], written as int or float.
        splats: the Gaussians at `coord`, in the same order.
    """
    columns: dict[str, NDArray[Any]] = {axis: coord[:, i].astype("<f4") for i, axis in enumerate("xyz")}
    bytes_ = np.clip(np.rint(np.asarray(colors) * 255), 0, 255).astype("u1")
    columns |= {name: bytes_[:, i] for i, name in enumerate(("red", "green", "blue"))}
    for name, values in (numbers or {}).items():
        columns[name] = np.asarray(values).astype("<i4" if np.asarray(values).dtype.kind in "iu" else "<f4")
    if splats is not None:
        columns |= _splat_columns(splats, colors)
    table = np.empty(len(coord), dtype=[(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        table[name] = values
    header = "ply\nformat binary_little_endian 1.0\n" + f"element vertex {len(table)}\n"
    header += "".join(f"property {_PLY_TYPES[v.dtype.str[1:]]} {name}\n" for name, v in columns.items())
    write_bytes_atomically(path, (header + "end_header\n").encode() + table.tobytes())
    return path


def _splat_columns(scene: GaussianScene, colors: NDArray[np.floating]) -> dict[str, NDArray[Any]]:
    """INRIA's columns (Kerbl et al. 2023, scene/gaussian_model.py): colour as harmonics, log scale, logit opacity."""
    opacity = np.clip(scene.opacities.astype(np.float64), 1e-6, 1 - 1e-6)
    table: dict[str, NDArray[Any]] = {f"f_dc_{i}": (np.asarray(colors)[:, i] - 0.5) / SH_C0 for i in range(3)}
    table["opacity"] = np.log(opacity / (1 - opacity))
    table |= {f"scale_{i}": np.log(scene.scales[:, i]) for i in range(3)}
    table |= {f"rot_{i}": scene.quats[:, i] for i in range(4)}
    return {name: values.astype("<f4") for name, values in table.items()}
