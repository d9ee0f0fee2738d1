"""The rooms of a storey: basins of its free space that are joined by passages narrower than themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components

from chorus_common.viewpoints.occupancy import Occupancy
from chorus_common.viewpoints.storeys import Storey

I64 = NDArray[np.int64]

#: Two basins are one room where the passage between them is wider than this share of the narrower basin.
PASSAGE = 0.7
#: Square metres of free floor that a room has at least; smaller basins belong to the room beside them.
LEAST_ROOM = 1.5
#: Free space that touches no room and is smaller than this, square metres, is a gap and no room.
LEAST_POCKET = 1.0


#: Share of a room's border that may run on into the open: windows, wide doors, missing walls.
MOST_LEAK = 0.5
#: Metres beyond the free floor of a room to which its walls reach.
WALL = 0.25
#: Share of the surface of connected rooms that stands between their walls from which they are furnished, and share of
#: a scene's surface that empty rooms hold where they are all there is.
FURNISHED, MOSTLY_INSIDE = 0.02, 0.5


@dataclass(frozen=True, eq=False)
class Room:
    """A room with places to stand in it.

    Attributes:
        storey: which; cells [C, 2]: its columns of the grid.
        stands [P, 3]: world positions of eyes, metres.
        clearance [P]: metres from each to the nearest matter.
        area: of its free floor, square metres; height: from floor to ceiling, metres (inf without one).
    """

    storey: int
    cells: I64
    stands: NDArray[np.float64]
    clearance: NDArray[np.float64]
    area: float
    height: float


def find_rooms(grid: Occupancy, storeys: list[Storey]) -> list[Room]:
    """The rooms that a person can stand in, largest first; none where the scene is no interior.

    Left out are places under a tree or beside a wall, whose free floor runs on into the open, and hollow ones: gaps
    between a wall and its facade, the inside of what was captured from outside. A hollow place alone is an empty room.
    """
    furnished, hollow = list[Room](), list[Room]()
    held = 0.0
    for number, storey in enumerate(storeys):
        labels = label_rooms(storey.open, grid.step)
        # Walls of a scan without a ceiling are incomplete, but then it holds nothing else either.
        bounded = np.flatnonzero(_leaks(labels, storey.free) <= (MOST_LEAK if storey.roofed else 1.0))
        for part in _connected(labels, bounded[bounded > 0], storey.walkable):
            cells = np.isin(labels, part)
            inner, shell = _surface(grid, storey, cells)
            rooms = _rooms_of(grid, storey, number, np.where(cells, labels, 0))
            if inner >= FURNISHED * shell:
                furnished += rooms
            elif rooms:
                hollow += rooms
                held = max(held, shell)
    if not furnished and hollow and held >= MOSTLY_INSIDE * float(grid.area.sum()):
        furnished = hollow
    return sorted(furnished, key=lambda room: -room.area)


def _rooms_of(grid: Occupancy, storey: Storey, number: int, labels: I64) -> list[Room]:
    rooms = []
    for room in np.unique(labels[labels > 0]):
        cells = np.argwhere(labels == room)
        area = len(cells) * grid.step**2
        stands = cells[storey.standing[tuple(cells.T)]]
        if area < LEAST_POCKET or len(stands) == 0:
            continue
        voxels = np.concatenate([stands, storey.eye[tuple(stands.T)][:, None]], axis=1)
        high = float(np.median((storey.ceiling - storey.floor)[tuple(cells.T)])) * grid.step
        roofless = bool((storey.ceiling[tuple(cells.T)] >= grid.solid.shape[2]).mean() > 0.5)
        clearance = storey.clearance[tuple(stands.T)]
        rooms.append(Room(number, cells, grid.centres_of(voxels), clearance, area, np.inf if roofless else high))
    return rooms


def _connected(labels: I64, rooms: I64, walkable: NDArray[np.bool_]) -> list[list[int]]:
    """The `rooms` in groups that a person can walk through; a window joins nothing."""
    paths, count = ndimage.label(walkable, structure=np.ones((3, 3)))
    pairs = np.unique(np.stack([labels[walkable], paths[walkable]]), axis=1)
    pairs = pairs[:, np.isin(pairs[0], rooms)]
    most = int(labels.max(initial=0)) + 1
    graph = sparse.coo_matrix((np.ones(pairs.shape[1]), (pairs[0], most + pairs[1])), shape=(most + count + 1,) * 2)
    group = connected_components(graph, directed=False)[1][rooms]
    return [rooms[group == g].tolist() for g in np.unique(group)]


def _leaks(labels: I64, free: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[L]: the share of the border of every room that runs on into free space which is not enclosed."""
    count = int(labels.max(initial=0)) + 1
    padded, open_air = np.pad(labels, 1), np.pad(free, 1, constant_values=True)
    leak, border = np.zeros(count), np.zeros(count)
    for axis in (0, 1):
        for shift in (1, -1):
            beside, air = np.roll(padded, shift, axis), np.roll(open_air, shift, axis)
            edge = (padded > 0) & (beside == 0)
            border += np.bincount(padded[edge], minlength=count)
            leak += np.bincount(padded[edge & air], minlength=count)
    return np.divide(leak, border, out=np.zeros(count), where=border > 0)


def _surface(grid: Occupancy, storey: Storey, cells: NDArray[np.bool_]) -> tuple[float, float]:
    """The surface of what stands in the part `cells` [X, Y] of a storey, between its walls, floor and ceiling, and of
    all of it, in faces of a voxel.
    """
    where = np.argwhere(cells)
    margin = max(1, round(WALL / grid.step))
    low, high = np.maximum(where.min(axis=0) - margin - 1, 0), where.max(axis=0) + margin + 2
    crop = slice(low[0], high[0]), slice(low[1], high[1])
    filled = ndimage.binary_fill_holes(cells[crop])
    deep = ndimage.distance_transform_edt(np.pad(filled, 1), sampling=grid.step)[1:-1, 1:-1] > WALL
    wide = ndimage.binary_dilation(filled, iterations=margin)
    z = np.arange(grid.solid.shape[2])
    floor, ceiling = storey.floor[crop][..., None], storey.ceiling[crop][..., None]
    area = grid.area[crop]
    inner = area[(z >= floor + margin) & (z < ceiling - margin) & deep[..., None]]
    shell = area[(z >= floor - 1) & (z <= ceiling + 1) & wide[..., None]]
    return float(inner.sum()), float(shell.sum())


def label_rooms(free: NDArray[np.bool_], step: float) -> I64:
    """[X, Y]: the room of every free column of a map with columns `step` metres apart, from 1 on; 0 elsewhere.

    Basins grow from the widest places downwards (a watershed of the distance to the nearest wall). Where two meet, they
    become one if the passage is wide for the narrower of them, or if that one is small.
    """
    width = ndimage.distance_transform_edt(np.pad(free, 1), sampling=step)  # padded, as is `basin`
    places = np.argwhere(np.pad(free, 1))
    order = np.argsort(-width[tuple(places.T)], kind="stable")
    basin = np.full(width.shape, -1, dtype=np.int64)
    parent: list[int] = []
    peak: list[float] = []
    size: list[int] = []

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    smallest = LEAST_ROOM / step**2
    for x, y in places[order].tolist():
        level = float(width[x, y])
        around = basin[x - 1 : x + 2, y - 1 : y + 2].ravel()
        held = np.flatnonzero(around >= 0)
        if len(held) == 0:
            basin[x, y] = len(parent)
            parent.append(len(parent))
            peak.append(level)
            size.append(1)
            continue
        # A place goes uphill: to the basin of its widest neighbour.
        uphill = held[width[x - 1 : x + 2, y - 1 : y + 2].ravel()[held].argmax()]
        own = root(int(around[uphill]))
        basin[x, y] = own
        size[own] += 1
        for other in sorted({root(int(k)) for k in around[held]} - {own}):
            high, low = (own, other) if (peak[own], -own) >= (peak[other], -other) else (other, own)
            if level >= PASSAGE * peak[low] or min(size[high], size[low]) < smallest:
                parent[low] = high
                size[high] += size[low]
                own = root(own)
    roots = np.array([root(k) for k in range(len(parent))], dtype=np.int64)
    labels = np.zeros(free.shape, dtype=np.int64)
    if len(roots):
        _, numbers = np.unique(roots, return_inverse=True)
        labels[free] = numbers[basin[1:-1, 1:-1][free]] + 1
    return labels
