"""From labels of a mesh's faces to labels of its vertices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def vertex_majority(faces: NDArray[np.integer], labels: NDArray[np.integer], n: int) -> NDArray[np.int64]:
    """The label [n] that most faces of each vertex have.

    "No label" (-1) is a candidate like all others, and the lowest of several equals wins, so that a vertex between as
    many labelled as unlabelled faces has none. A face that names a vertex twice votes twice. Source: OpenScene
    preprocess_3d_matterport.py.

    Args:
        faces: [F, 3] vertex indices in [0, n).
        labels: [F], -1 or more.
    """
    best = np.full(n, -1, np.int64)
    if len(faces) == 0:
        return best
    width = int(labels.max(initial=-1)) + 2
    ballots = faces.astype(np.int64).ravel() * width + np.repeat(labels.astype(np.int64) + 1, 3)  # [F * 3]
    kinds, counts = np.unique(ballots, return_counts=True)
    vertex, label = kinds // width, kinds % width - 1
    order = np.lexsort((-label, counts, vertex))  # the last of a vertex: most votes, then the lowest label
    vertex, label = vertex[order], label[order]
    last = np.append(vertex[1:] != vertex[:-1], True)
    best[vertex[last]] = label[last]
    return best
