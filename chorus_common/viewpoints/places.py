"""Places to look from: where people stand, spread over rooms or open ground, and rings around an object."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import look_at
from chorus_common.viewpoints.geometry import furthest_points
from chorus_common.viewpoints.survey import Survey

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Places that are preferred keep this distance from matter, metres, where a room has such places.
ROOMY = 0.6
#: Rings around an object: degrees above the horizon; around one that stands on the ground.
RINGS, GROUND_RINGS = (-20.0, 10.0, 32.0, 58.0), (6.0, 25.0, 45.0, 65.0)


def standing_places(survey: Survey, count: int, rng: np.random.Generator) -> tuple[F64, I64]:
    """About `count` places to stand [P, 3] (eyes, world, metres) and the room [P] of each: every room gets its share by
    its free floor, at least one, spread by furthest-point sampling. None around an object.
    """
    if survey.surroundings is not None:
        stands = survey.surroundings.stands
        if len(stands) == 0:
            return np.zeros((0, 3)), np.zeros(0, dtype=np.int64)
        chosen = furthest_points(stands, count, int(rng.integers(len(stands))))
        return stands[chosen], np.zeros(len(chosen), dtype=np.int64)
    areas = np.array([room.area for room in survey.rooms])
    shares = np.maximum(np.rint(count * areas / areas.sum()), 1).astype(int)
    eyes, rooms = [], []
    for number, (room, share) in enumerate(zip(survey.rooms, shares)):
        roomy = room.clearance >= min(ROOMY, 0.6 * float(room.clearance.max()))
        stands = room.stands[roomy]
        chosen = furthest_points(stands, int(share), int(rng.integers(len(stands))))
        eyes.append(stands[chosen])
        rooms.append(np.full(len(chosen), number, dtype=np.int64))
    return np.concatenate(eyes), np.concatenate(rooms)


def ring_places(survey: Survey, count: int, fields: F64, body: float = 0.0) -> tuple[F64, F64]:
    """About `count` eyes [P, 3] on rings around an object and its middle [3], in the world, metres.

    fields [2]: half the width and height of a picture at distance one. From every other place the object just fits into
    the picture; the others are at two thirds of that distance. body: metres by which the object reaches further than
    the centres of its Gaussians.
    """
    assert survey.surroundings is not None
    around, frame = survey.surroundings, survey.grid.frame
    half = np.maximum((around.high - around.low) / 2 + body, 0.01)
    centre = (around.low + around.high) / 2
    directions = _rings(GROUND_RINGS if around.on_ground else RINGS, count)
    distances = np.array([filling_distance(direction, half, fields) for direction in directions])
    distances[1::2] *= 2 / 3
    return (centre + distances[:, None] * directions) @ frame, centre @ frame


def filling_distance(direction: F64, half: F64, fields: F64) -> float:
    """How far from its middle, along the unit vector `direction` [3], a box of half sizes `half` [3] just fits into a
    picture whose half width and height are `fields` [2] at distance one.
    """
    view = look_at(direction, np.zeros(3), (0.0, 0.0, 1.0))
    corners = np.stack(np.meshgrid(*[(-h, h) for h in half]), axis=-1).reshape(8, 3) @ view[:3, :3].T
    return float((np.abs(corners[:, :2]) / fields - corners[:, 2:]).max())


def _rings(elevations: tuple[float, ...], count: int) -> F64:
    """About `count` unit vectors [D, 3] on rings; a ring has as many as its length asks for, and is turned against the
    one below by half a step."""
    lengths = np.cos(np.radians(elevations))
    per_ring = np.maximum(np.rint(count * lengths / lengths.sum()), 3).astype(int)
    directions = []
    for k, (elevation, number) in enumerate(zip(np.radians(elevations), per_ring)):
        turn = 2 * np.pi * (np.arange(number) + 0.5 * (k % 2)) / number
        flat = np.cos(elevation)
        directions.append(
            np.stack([flat * np.cos(turn), flat * np.sin(turn), np.full(number, np.sin(elevation))], axis=1)
        )
    return np.concatenate(directions)
