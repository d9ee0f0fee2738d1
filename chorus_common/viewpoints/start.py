"""The one view that a scene is best opened with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chorus_common.scene import GaussianScene
from chorus_common.viewpoints.places import filling_distance
from chorus_common.viewpoints.survey import Kind, Survey, survey_scene

F64 = NDArray[np.float64]

#: How far below eye height one looks at in the middle of a room, metres, and the degrees above the horizon from which
#: an object is looked at.
DOWN, ABOVE = 0.5, 20.0


@dataclass(frozen=True, eq=False)
class GoodView:
    """A view: eye and target [3], and what the scene is; in the scene's frame, metres."""

    eye: F64
    target: F64
    up: tuple[float, float, float]
    kind: Kind


def good_view(
    scene: GaussianScene,
    up: tuple[float, float, float] = (0.0, 0.0, 1.0),
    *,
    fov_x: float = 70.0,
    aspect: float = 4 / 3,
    survey: Survey | None = None,
) -> GoodView:
    """From a corner of the largest room to its middle; from the edge of open ground over it; from obliquely above at an
    object that fills a picture of `fov_x` degrees and `aspect` (width over height).
    """
    survey = survey or survey_scene(scene, up)
    frame = survey.grid.frame
    if survey.surroundings is not None and len(survey.surroundings.stands) == 0:
        around = survey.surroundings
        turn, tilt = np.radians(35.0), np.radians(ABOVE)
        direction = np.array([np.cos(turn) * np.cos(tilt), np.sin(turn) * np.cos(tilt), np.sin(tilt)])
        half_width = np.tan(np.radians(fov_x) / 2)
        half = np.maximum((around.high - around.low) / 2, 0.01)
        distance = filling_distance(direction, half, np.array([half_width, half_width / aspect]))
        middle = (around.low + around.high) / 2
        return GoodView((middle + distance * direction) @ frame, middle @ frame, up, survey.kind)
    if survey.surroundings is not None:
        stands, clearance = survey.surroundings.stands, survey.surroundings.clearance
    else:
        stands, clearance = survey.rooms[0].stands, survey.rooms[0].clearance
    middle = stands.mean(axis=0)
    roomy = stands[clearance >= 0.7 * float(np.quantile(clearance, 0.9))]
    eye = roomy[int(np.linalg.norm(roomy - middle, axis=1).argmax())]
    return GoodView(eye, middle - DOWN * frame[2], up, survey.kind)
