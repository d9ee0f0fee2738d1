"""Where people can stand in a scene: in the rooms of an interior, on open ground, or around an object.

`survey_scene` is a pure function of the scene: the same scene gives the same places. Its time grows linearly with the
Gaussians, its memory does not grow with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chorus_common.scene import GaussianScene
from chorus_common.viewpoints.geometry import upright_frame
from chorus_common.viewpoints.occupancy import Occupancy, occupy
from chorus_common.viewpoints.rooms import WALL, Room, find_rooms
from chorus_common.viewpoints.storeys import Storey, find_storeys
from chorus_common.viewpoints.surroundings import Surroundings, find_surroundings

F64 = NDArray[np.float64]

Kind = Literal["interior", "object", "outdoors"]


@dataclass(frozen=True, eq=False)
class Survey:
    """What a scene is, and where people can stand in it.

    Attributes:
        kind: "interior", "object" (seen from around) or "outdoors" (open ground).
        grid: solid and free voxels.
        rooms: of an interior, largest first; storeys: their maps.
        surroundings: of a scene that is no interior.
    """

    kind: Kind
    grid: Occupancy
    storeys: tuple[Storey, ...] = ()
    rooms: tuple[Room, ...] = ()
    surroundings: Surroundings | None = None

    def inside(self, points: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which points [P, 3] of the world belong to the interior: its rooms with their walls, floors, ceilings and
        furniture. All of them where the scene is no interior.
        """
        if self.kind != "interior":
            return np.ones(len(points), dtype=np.bool_)
        found = np.zeros(len(points), dtype=np.bool_)
        shape = np.array(self.grid.solid.shape)
        for first in range(0, len(points), 1_000_000):
            voxels = np.floor(self.grid.voxels_of(points[first : first + 1_000_000])).astype(np.int64)
            columns = np.clip(voxels[:, :2], 0, shape[:2] - 1)
            in_grid = (columns == voxels[:, :2]).all(axis=1)
            for number, storey in enumerate(self.storeys):
                low, high = self._reach(number, storey)
                x, y = columns.T
                found[first : first + len(voxels)] |= (
                    in_grid & (voxels[:, 2] >= low[x, y]) & (voxels[:, 2] <= high[x, y])
                )
        return found

    def _reach(self, number: int, storey: Storey) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Lowest and highest voxel [X, Y] of the rooms of a storey; lowest above highest outside them."""
        cells = np.zeros(self.grid.solid.shape[:2], dtype=np.bool_)
        for room in self.rooms:
            if room.storey == number:
                cells[tuple(room.cells.T)] = True
        distance, nearest = ndimage.distance_transform_edt(~cells, sampling=self.grid.step, return_indices=True)
        near = distance <= max(WALL, 1.01 * self.grid.step)
        if not cells.any():
            near[:] = False
        low = np.where(near, storey.floor[tuple(nearest)] - 1, 1 << 40)
        high = np.where(near, storey.ceiling[tuple(nearest)] + 1, -1)
        return low - (1 if self.grid.step < 0.12 else 0), high + (1 if self.grid.step < 0.12 else 0)


def survey_scene(scene: GaussianScene, up: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> Survey:
    """Look at where people can stand in `scene`, whose upward direction is `up`; metres.

    An interior has standing room under a ceiling with walls in most directions, or, where a scan has no ceiling, with
    walls nearly all around.
    """
    grid = occupy(scene, upright_frame(up))
    storeys = find_storeys(grid)
    rooms = find_rooms(grid, storeys)
    if rooms:
        return Survey("interior", grid, tuple(storeys), tuple(rooms))
    surroundings = find_surroundings(grid)
    return Survey("outdoors" if surroundings.outdoors else "object", grid, surroundings=surroundings)
