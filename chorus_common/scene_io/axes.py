"""Axes that files declare, and the turn from them to those of .ply files (x right, y down, z forward: RDF)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.harmonics import turned_harmonics

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#: Direction that a letter names, in RDF.
_DIRECTIONS = {"R": (1, 0, 0), "L": (-1, 0, 0), "D": (0, 1, 0), "U": (0, -1, 0), "F": (0, 0, 1), "B": (0, 0, -1)}


def to_rdf(axes: str) -> F64:
    """Signed permutation [3, 3] from the axes that the three letters name (where x, y and z point) to RDF.

    "RUB" is x right, y up, z back, as in .spz and OpenGL.
    """
    return np.array([_DIRECTIONS[letter] for letter in axes], np.float64).T


def turned_columns(columns: dict[str, Any], turn: F64) -> dict[str, Any]:
    """Columns of a scene (means, quats w x y z, scales, harmonics, normals) after the signed permutation `turn` [3, 3].

    The local axes are turned along (R' = M R M^T), which keeps the quaternion of a Gaussian that lies along the axes;
    its scales are permuted.
    """
    out = dict(columns)
    m = turn.astype(np.float32)
    out["means"] = columns["means"] @ m.T
    quats = columns["quats"]
    # a rotation axis is a pseudovector: a mirror turns it round once more
    vector = quats[:, 1:] @ (m * np.float32(np.linalg.det(turn))).T
    out["quats"] = np.column_stack([quats[:, 0], vector])
    out["scales"] = columns["scales"] @ np.abs(m).T
    if columns.get("normals") is not None:
        out["normals"] = columns["normals"] @ m.T
    if columns.get("harmonics") is not None:
        out["harmonics"] = turned_harmonics(columns["harmonics"], turn)
    return out
