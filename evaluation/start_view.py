"""From where a scene is best looked at: the first view of the viewer and of a shared page, and the picture of a query.

Candidates are the cameras of the scene's cache. Where there is no cache, they stand inside an interior, or around
whatever else the scene is. Every candidate is drawn small, and the one that shows most of the scene wins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import look_at, pinhole
from chorus_common.lifting import CellGrid
from chorus_common.rasterize import get_backend
from chorus_common.scene import GaussianScene
from chorus_common.scene_check.enclosure import is_interior
from chorus_common.scene_check.surfaces import scene_surfaces
from evaluation.scenes import LoadedScene

F64 = NDArray[np.float64]

#: The picture that candidates are drawn as, and its horizontal field of view in degrees: 60 across the shorter side, as
#: in the viewer.
_WIDTH, _HEIGHT = 96, 72
FIELD = 75.2
#: Voxels along the scene's longest side: how much of the scene a view shows is how many it has something of.
_VOXELS = 24
#: Cameras of a cache that are tried.
_MOST_CAMERAS = 24
#: What is nearer than this share of the scene's size hides the rest.
_NEAR = 0.1
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
    low, high = _box(gaussians, 2)
    size = float(np.linalg.norm(high - low))
    if focus is not None and not focus.any():
        focus = None
    middle = low + (high - low) * np.array([0.5, 0.5, 0.4])
    wanted = middle if focus is None else np.median(gaussians.means[focus], axis=0).astype(np.float64)
    candidates = _of_cameras(scene, size) if scene.cache is not None else []
    if not candidates:
        inside = is_interior(scene_surfaces(gaussians))
        if inside:
            candidates = _inside(low, high, wanted, middle)
        else:
            low, high = _box(gaussians, 0.5)
            candidates = _around(low, high, (low + high) / 2 if focus is None else wanted)
    places = np.floor((gaussians.means - low) / max(float((high - low).max()), 1e-6) * _VOXELS)
    _, place = np.unique(np.clip(places, -1, _VOXELS).astype(np.int64), axis=0, return_inverse=True)
    scores = [_score(gaussians, view, place.reshape(-1), focus, _NEAR * size) for view in candidates]
    return candidates[int(np.argmax(scores))]


def _box(scene: GaussianScene, percent: float) -> tuple[F64, F64]:
    """The corners of the box that holds all centres but so many percent on each side, a Gaussian wider; never empty."""
    low, high = np.percentile(scene.means, [percent, 100 - percent], axis=0).astype(np.float64)
    wide = float(np.median(scene.scales))
    return low - wide, high + wide


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


def _inside(low: F64, high: F64, wanted: F64, middle: F64) -> list[StartView]:
    """Near the corners and walls, at two heights, looking at what is wanted; in the middle, looking to four sides."""
    views = []
    for height in (0.55, 0.8):
        for x in (0.1, 0.5, 0.9):
            for y in (0.1, 0.5, 0.9):
                eye = low + (high - low) * np.array([x, y, height])
                if (x, y) != (0.5, 0.5) or not np.array_equal(wanted, middle):
                    views.append(StartView(eye, wanted))
                    continue
                for side in ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)):
                    views.append(StartView(eye, eye + (high - low) * np.array([*side, -0.25]) / 2))
    return [view for view in views if np.linalg.norm(view.target - view.eye) > 1e-6]


def _around(low: F64, high: F64, wanted: F64) -> list[StartView]:
    """A ring around the scene at two heights, far enough to see the whole of it: a ball fits into 60 degrees from twice
    its radius.
    """
    middle = (low + high) / 2
    far = 2.1 * float(np.linalg.norm(high - low)) / 2
    views = []
    for elevation in np.radians([12.0, 35.0]):
        for turn in np.arange(12) * np.pi / 6:
            flat = np.cos(elevation)
            back = np.array([flat * np.cos(turn), flat * np.sin(turn), np.sin(elevation)])
            views.append(StartView(middle + far * back, (middle + wanted) / 2))
    return views
