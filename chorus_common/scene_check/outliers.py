"""Gaussians that lie apart from everything else: floaters, rows at absurd coordinates, dirt under the floor.

One such row decides whatever is computed from the bounding box of a scene: where its floor is, how its voxels are
numbered, where its views stand. They are found by distance, not by a quantile, so a clean scene has none of them:

1. Opaque Gaussians are put into cells of `CELL_SPACINGS` typical spacings; touching cells (26 neighbours) form groups.
2. Groups that hold at least `GROUP_SHARE` of the opacity are kept: a second room or a garden is no outlier.
3. Of all other rows, those further from every kept Gaussian than a gap are outliers. The gap is the cell's width, plus
   the size of the nearest kept Gaussian, because large flat Gaussians lie far apart on plain walls.
   Rows inside the box of the kept ones decide nothing and stay: the floor under a bed may be a single Gaussian.

The lowest rows decide where the floor is, so a smaller gap counts there: `below_all_others` finds the few rows of an
upright scene that lie below everything else, a typical spacing or more apart from it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from chorus_common.scene import GaussianScene

F64 = NDArray[np.float64]

#: Opacity below which a Gaussian connects nothing.
OPAQUE = 0.05
#: Scenes of fewer opaque Gaussians are too sparse for anything to lie apart.
FEWEST = 1000
#: Width of a cell in typical spacings (median distance to the fourth neighbour).
CELL_SPACINGS = 4.0
#: A cell is at least this share of the diagonal of the robust box: very dense splats are not cut into crumbs.
CELL_SHARE = 0.01
#: Share of the opacity from which a group of cells is a part of the scene.
GROUP_SHARE = 0.005
#: Where more rows than this share would be outliers, the scene is scattered by nature and nothing is left out.
MOST = 0.05
#: Share of the rows that may lie below such a gap.
TAIL_SHARE = 0.0005
#: Cells are counted from the median; rows beyond this many cells are further away than any scene reaches.
FAR_CELLS = 1 << 18
_NEIGHBOURS = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if (x, y, z) > (0, 0, 0)]


def find_outliers(scene: GaussianScene, gap: float | None = None) -> NDArray[np.bool_]:
    """Which Gaussians [N] lie apart from the rest.

    gap: distance in the scene's unit from which a Gaussian lies apart; None = from the scene's own spacing (see the
    module's text). With None, a scene whose outliers would be more than `MOST` of its rows has none.
    """
    means = scene.means.astype(np.float64)
    opaque = np.flatnonzero(scene.opacities >= OPAQUE)
    nothing = np.zeros(len(scene), dtype=bool)
    if len(opaque) < FEWEST:
        return nothing
    cell = gap if gap is not None else cell_width(means[opaque])
    if cell <= 0:
        return nothing
    kept = opaque[in_large_groups(means[opaque], scene.opacities[opaque], cell)]
    apart = np.ones(len(scene), dtype=bool)
    apart[kept] = False
    candidates = np.flatnonzero(apart)
    if len(candidates):
        distance, nearest = cKDTree(means[kept]).query(means[candidates], k=1)
        size = 0.0 if gap is not None else np.minimum(2 * scene.scales[kept[nearest]].max(axis=1), 4 * cell)
        inside = ((means[candidates] >= means[kept].min(0)) & (means[candidates] <= means[kept].max(0))).all(axis=1)
        apart[candidates] = (distance > cell + size) & ~inside
    return nothing if gap is None and apart.mean() > MOST else apart


def typical_spacing(points: F64, sample: int = 4000) -> float:
    """Median distance to the fourth neighbour among distinct points [P, 3], over evenly strided rows; 0 where there are
    fewer than five places.
    """
    distinct = np.unique(points, axis=0)
    if len(distinct) < 5:
        return 0.0
    queries = distinct[:: max(1, len(distinct) // sample)]
    return float(np.median(cKDTree(distinct).query(queries, k=5)[0][:, 4]))


def cell_width(points: F64) -> float:
    """The width of a cell for points [P, 3], in their unit."""
    low, high = np.percentile(points, [1, 99], axis=0)
    return max(CELL_SPACINGS * typical_spacing(points), CELL_SHARE * float(np.linalg.norm(high - low)))


def below_all_others(points: F64, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which rows [N] of upright `points` [N, 3] (z up) are the few `usable` ones below a gap along z."""
    below = np.zeros(len(points), dtype=np.bool_)
    rows = np.flatnonzero(usable)
    few = int(TAIL_SHARE * len(rows))
    if few == 0:
        return below
    height = points[rows, 2]
    order = np.argpartition(height, few)[: few + 1]
    order = order[np.argsort(height[order], kind="stable")]
    steps = np.diff(height[order])
    if steps.max() <= 0:
        return below
    spacing = typical_spacing(points[rows])
    gaps = np.flatnonzero(steps >= spacing)
    if spacing > 0 and len(gaps):
        below[rows[order[: int(gaps[-1]) + 1]]] = True
    return below


def in_large_groups(points: F64, opacities: NDArray[np.floating], cell: float) -> NDArray[np.bool_]:
    """Which points [P, 3] lie in a group of touching cells that holds enough of the opacity [P]."""
    index = np.floor((points - np.median(points, axis=0)) / cell)
    near = np.asarray((np.abs(index) < FAR_CELLS).all(axis=1), dtype=np.bool_)
    index = np.where(near[:, None], index, 0).astype(np.int64) + FAR_CELLS + 1
    size = 2 * FAR_CELLS + 3
    key = (index[:, 0] * size + index[:, 1]) * size + index[:, 2]
    key[~near] = -1
    cells, member = np.unique(key, return_inverse=True)
    rows, columns = [], []
    for x, y, z in _NEIGHBOURS:
        wanted = cells + (x * size + y) * size + z
        place = np.minimum(np.searchsorted(cells, wanted), len(cells) - 1)
        touching = np.flatnonzero((cells[place] == wanted) & (cells >= 0))
        rows.append(touching)
        columns.append(place[touching])
    row, column = np.concatenate(rows), np.concatenate(columns)
    graph = sparse.coo_matrix((np.ones(len(row), np.int8), (row, column)), shape=(len(cells), len(cells)))
    group = connected_components(graph, directed=False)[1][member]
    mass = np.bincount(group, opacities.astype(np.float64) * near)
    large = np.asarray(mass >= GROUP_SHARE * mass.sum())
    return np.asarray(large[group] & near, dtype=np.bool_)
