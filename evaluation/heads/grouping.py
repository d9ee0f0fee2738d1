"""Grouping: from a class and an offset per point to instances (PointGroup, Jiang et al., CVPR 2020, section 3.3).

Points of one predicted class are clustered twice, where they are and where their offsets move them: neighbours that
touch are told apart by the offsets, and points whose offset is wrong are kept together by where they are. A cluster's
score is the mean probability of its class (as Pointcept's PointGroup), times the share of its points that the offsets
keep together: two chairs that touch are one cluster in place, of score one half. The paper has a second network for
that, ScoreNet. Of clusters that overlap, the better one stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse

from chorus_common.runtime.config import Config
from evaluation.heads.components import connected_components

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


class GroupingConfig(Config):
    """How points become instances.

    Attributes:
        radius: two points of a class within so many voxels of each other belong together (Pointcept: 1.5).
        min_points: smaller clusters are dropped, in voxels (Pointcept: 50).
        overlap: of two clusters whose IoU exceeds this, the one of lower score is dropped (PointGroup: 0.3).
    """

    radius: float = Field(default=1.5, gt=0)
    min_points: int = Field(default=50, ge=1)
    overlap: float = Field(default=0.3, ge=0, le=1)


@dataclass(frozen=True, eq=False)
class Instances:
    """Predicted instances: masks [P, N] (CSR, ones), classes [P] and scores [P], best score first."""

    masks: sparse.csr_matrix
    classes: I64
    scores: NDArray[np.float64]

    def on(self, owner: NDArray[np.integer]) -> Instances:
        """The same instances on other points, each of which takes the membership of point `owner` [M] of these."""
        return Instances(self.masks[:, owner].tocsr(), self.classes, self.scores)


def group(
    probabilities: F32, coord: F32, offsets: F32, radius: float, things: NDArray[np.bool_], config: GroupingConfig
) -> Instances:
    """Instances among N points.

    Args:
        probabilities: [N, K] softmax. coord, offsets: [N, 3] metres. radius: metres.
        things: [K] classes that have instances.
    """
    classes = probabilities.argmax(axis=1)
    classes = np.where(things[classes], classes, -1)
    in_place, shifted = (connected_components(at, classes, radius) for at in (coord, coord + offsets))
    masks = sparse.vstack([_clusters(part, config.min_points) for part in (in_place, shifted)], format="csr")
    if masks.shape[0] == 0:
        return Instances(masks, np.zeros(0, np.int64), np.zeros(0))
    sizes = np.diff(masks.indptr)
    kinds = classes[masks.indices[masks.indptr[:-1]]].astype(np.int64)
    own = probabilities[masks.indices, np.repeat(kinds, sizes)].astype(np.float64)
    # Rounded, so that equal scores are equal whatever the order of a sum: then the larger cluster comes first, then the
    # lower class, then the order of `connected_components`.
    scores = np.round(np.add.reduceat(own, masks.indptr[:-1]) / sizes * _agreement(masks, shifted), 6)
    order = np.lexsort((np.arange(len(kinds)), kinds, -sizes, -scores))
    masks, kinds, scores = masks[order], kinds[order], scores[order]
    keep = _suppress(masks, config.overlap)
    return Instances(masks[keep].tocsr(), kinds[keep], scores[keep])


def _clusters(component: I64, min_points: int) -> sparse.csr_matrix:
    """Membership [P, N] of the components that have at least `min_points` points."""
    n = len(component)
    known = np.flatnonzero(component >= 0)
    sizes = np.bincount(component[known], minlength=1)
    large = sizes >= min_points
    number = np.cumsum(large) - 1
    rows = known[large[component[known]]]
    ones = np.ones(len(rows), dtype=np.int8)
    return sparse.csr_matrix((ones, (number[component[rows]], rows)), shape=(int(large.sum()), n))


def _agreement(masks: sparse.csr_matrix, component: I64) -> NDArray[np.float64]:
    """[P] largest share of the points of a mask that lie in one component."""
    sizes = np.diff(masks.indptr)
    width = int(component.max()) + 1
    mask = np.repeat(np.arange(len(sizes)), sizes)
    keys, counts = np.unique(mask * width + component[masks.indices], return_counts=True)
    largest = np.zeros(len(sizes), dtype=np.int64)
    np.maximum.at(largest, keys // width, counts)
    return largest / sizes


def _suppress(masks: sparse.csr_matrix, overlap: float) -> I64:
    """Rows that stay when every row drops the later ones with which its IoU exceeds `overlap`."""
    wide = masks.astype(np.int64)
    shared = (wide @ wide.T).tocsr()
    sizes = np.diff(masks.indptr)
    alive = np.ones(masks.shape[0], dtype=bool)
    for i in range(masks.shape[0]):
        if not alive[i]:
            continue
        row = slice(shared.indptr[i], shared.indptr[i + 1])
        others, both = shared.indices[row], shared.data[row]
        iou = both / (sizes[i] + sizes[others] - both)
        alive[others[(iou > overlap) & (others > i)]] = False
    return np.flatnonzero(alive)
