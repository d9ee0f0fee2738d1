"""From where a scene is best looked at: the first view of the viewer and of a shared page, and the picture of a query.

Candidates are the cameras of the scene's cache. Where there is no cache, they are places where people can stand
(chorus_common/viewpoints), or rings around an object. Every candidate is drawn small, and the one that shows most of
the scene wins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import look_at, pinhole
from chorus_common.lifting import CellGrid
from chorus_common.rasterize import get_backend
from chorus_common.scene import GaussianScene
from chorus_common.viewpoints import good_view, survey_scene
from chorus_common.viewpoints.places import ring_places, standing_places
from evaluation.scenes import LoadedScene

F64 = NDArray[np.float64]

#: The picture that candidates are drawn as, and its horizontal field of view in degrees: 60 across the shorter side, as
#: in the viewer.
_WIDTH, _HEIGHT = 96, 72
FIELD = 75.2
#: Voxels along the scene's longest side: how much of the scene a view shows is how many it has something of.
_VOXELS = 24
#: Cameras of a cache that are tried; places to stand, twice as many around an object; and their least distance from
#: what they look at, in metres.
_MOST_CAMERAS, _PLACES, _APART = 24, 16, 0.3
#: What is nearer than this share of the scene's size hides the rest.
_NEAR = 0.15
#: Share of the picture that is enough for what is asked for.
_ENOUGH = 0.08


@dataclass(frozen=True, eq=False)
class StartView:
    """eye, target [3]: metres, in the scene's frame."""

    eye: F64
    target: F64

    @property
    def viewmat(self) -> F64:
        """World to camera [4, 4]."""
        return look_at(self.eye, self.target)


def start_view(scene: LoadedScene, focus: NDArray[np.bool_] | None = None) -> StartView:
    """The candidate that shows most of the scene, or most of the rows in `focus` [N] with something around them.

    What counts is the number of different places seen, and it counts for less the more of the picture is filled by
    what is close before the camera.
    """
    gaussians = scene.gaussians
    low, high = np.percentile(gaussians.means, [2, 98], axis=0).astype(np.float64)
    size = max(float(np.linalg.norm(high - low)), 1e-6)
    wanted = None
    if focus is not None and focus.any():
        wanted = np.median(gaussians.means[focus], axis=0).astype(np.float64)
    else:
        focus = None
    candidates = _of_cameras(scene, size) if scene.cache is not None else _standing(gaussians, wanted, size)
    places = np.floor((gaussians.means - low) / max(float((high - low).max()), 1e-6) * _VOXELS)
    _, place = np.unique(np.clip(places, -1, _VOXELS).astype(np.int64), axis=0, return_inverse=True)
    scores = [_score(gaussians, view, place.reshape(-1), focus, _NEAR * size) for view in candidates]
    return candidates[int(np.argmax(scores))]


def _score(
    scene: GaussianScene, view: StartView, place: NDArray[np.int64], focus: NDArray[np.bool_] | None, near: float
) -> float:
    grid = CellGrid(_WIDTH, _HEIGHT, 16)
    drawn = get_backend("cpu").render(scene, view.viewmat, pinhole(_WIDTH, _HEIGHT, FIELD), _WIDTH, _HEIGHT, grid=grid)
    hits = drawn.hits
    assert hits is not None, "a grid was given"
    seen = np.bincount(place[hits.gaussian_ids], weights=hits.weights)
    shown = float((seen > 0.25).sum())
    blocked = float(((drawn.depth < near) & (drawn.alpha > 0.5)).mean())
    if focus is None:
        return shown * (1 - blocked) ** 2
    share = float(hits.weights[focus[hits.gaussian_ids]].sum()) / (_WIDTH * _HEIGHT)
    return min(share / _ENOUGH, 1.0) * np.sqrt(shown) * (1 - blocked) ** 2


def _of_cameras(scene: LoadedScene, size: float) -> list[StartView]:
    """Cameras of the scene's cache, at even distances; each looks at a point a third of the scene's size away."""
    cameras = scene.cached().cameras()
    rows = np.unique(np.linspace(0, len(cameras) - 1, min(len(cameras), _MOST_CAMERAS)).round().astype(int))
    forward = cameras.viewmats[rows, 2, :3]
    return [StartView(eye, eye + axis * size / 3) for eye, axis in zip(cameras.centers[rows], forward)]


def _standing(scene: GaussianScene, wanted: F64 | None, size: float) -> list[StartView]:
    """Where people can stand, or around an object: the view that the scene is best opened with, and other places that
    look at the same point or at what is wanted.
    """
    survey = survey_scene(scene)
    first = good_view(scene, fov_x=FIELD, aspect=_WIDTH / _HEIGHT, survey=survey)
    opening = StartView(first.eye, first.target)
    views = [opening] if wanted is None else []
    target = first.target if wanted is None else wanted
    eyes, _ = standing_places(survey, _PLACES, np.random.default_rng(0))
    if not len(eyes):
        target = first.target  # an object is seen whole
        half = np.tan(np.radians(FIELD) / 2)
        eyes = ring_places(survey, 4 * _PLACES, np.array([half, half * _HEIGHT / _WIDTH]))[0][::2]  # that see it whole
    apart = min(_APART, size / 10)
    views += [StartView(eye, target) for eye in eyes if np.linalg.norm(eye - target) > apart]
    return views or [opening]  # what is wanted may fill the only place to stand
