"""How enclosed a place is: where rays from it end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chorus_common.viewpoints.occupancy import Occupancy

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]

#: Metres within which a ray has to end.
REACH = 20.0
#: Rays around, at and a little above eye height, so that open ground is not met; rays up; rays down.
AZIMUTHS, ELEVATIONS = 24, (0.0, 6.0, 12.0)
STEEP = (50.0, 65.0, 85.0)
#: Shares of rays around, above and below that end near: under a roof.
ROOFED = (0.5, 0.6, 0.5)
#: Walls of a scan without a ceiling are often low and incomplete. Level rays that start half a metre below the eyes
#: look for them: metres they may go, degrees, the share that ends near, and that of rays below.
LOWER, LEVEL_REACH, LEVEL = 0.5, 10.0, (-3.0, 0.0, 3.0)
WALLED, PARTLY_WALLED, FLOORED = 0.65, 0.5, 0.7


@dataclass(frozen=True, eq=False)
class Enclosure:
    """Shares [S] of the rays around, above and below each of S places, and of level ones from a little lower, that end
    on something near.
    """

    around: F32
    above: F32
    below: F32
    level: F32

    @property
    def roofed(self) -> NDArray[np.bool_]:
        """[S]: walls in most directions, a ceiling and a floor."""
        return (self.around >= ROOFED[0]) & (self.above >= ROOFED[1]) & (self.below >= ROOFED[2])

    @property
    def walled(self) -> NDArray[np.bool_]:
        """[S]: a floor, and walls in most directions."""
        return (self.level >= WALLED) & (self.below >= FLOORED)

    @property
    def partly_walled(self) -> NDArray[np.bool_]:
        """[S]: a floor, and walls in at least half of all directions: a place in a scan that has walled ones."""
        return self.roofed | (self.level >= PARTLY_WALLED) & (self.below >= FLOORED)


def enclosure_at(grid: Occupancy, voxels: NDArray[np.int64]) -> Enclosure:
    """Shoot rays from the middles of voxels [S, 3]."""
    from chorus_common.viewpoints.kernels import share_of_hits  # numba takes a moment to import

    reach = REACH / grid.step
    azimuths = 360.0 * np.arange(AZIMUTHS) / AZIMUTHS
    steep = [_directions(azimuths[::3] + 15.0 * k, elevation) for k, elevation in enumerate(STEEP)]
    around = np.concatenate([_directions(azimuths + 5.0 * k, elevation) for k, elevation in enumerate(ELEVATIONS)])
    above = np.concatenate(steep)
    below = above * np.array([1.0, 1.0, -1.0])
    level = np.concatenate([_directions(azimuths + 5.0 * k, elevation) for k, elevation in enumerate(LEVEL)])
    lower = voxels.copy()
    lower[:, 2] = np.maximum(lower[:, 2] - round(LOWER / grid.step), 0)
    free = ~grid.solid[tuple(lower.T)]
    return Enclosure(
        share_of_hits(grid.solid, voxels, around, reach),
        share_of_hits(grid.solid, voxels, above, reach),
        share_of_hits(grid.solid, voxels, below, reach),
        share_of_hits(grid.solid, lower, level, LEVEL_REACH / grid.step) * free.astype(np.float32),
    )


def _directions(azimuths: F64, elevation: float) -> F64:
    """Unit vectors [A, 3]; degrees."""
    turn, tilt = np.radians(azimuths), np.radians(elevation)
    flat = np.full(len(turn), np.cos(tilt))
    return np.stack([np.cos(turn) * flat, np.sin(turn) * flat, np.full(len(turn), np.sin(tilt))], axis=1)
