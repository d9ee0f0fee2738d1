"""What the scene's geometry says about its views: which surfaces a view shows, and from how close each was ever seen.

The closest distance of a surface is only known once all views have been looked at, while views go through the teachers
in batches. So the first question makes a quick survey of all views in small pictures; runs that never ask pay nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import CameraSet
from chorus_common.rasterize import Rasterizer, get_backend
from chorus_common.scene import GaussianScene
from stage1_render_teachers.teachers.prompt_density import VisibleSurface, closest_depths, visible_surface

#: Pixels on the longer side of the survey's pictures: visibility is decided to a quarter of the depth only.
SURVEY_PIXELS = 160


class SceneSurfaces:
    """The visible surface of each view of one scene."""

    def __init__(self, scene: GaussianScene, cameras: CameraSet, rasterizer: str) -> None:
        self._scene, self._cameras, self._rasterizer = scene, cameras, rasterizer

    def of_view(self, view: int, depth: NDArray[np.float32]) -> VisibleSurface:
        """What view number `view` shows, given its rendered depth [H, W]."""
        cameras = self._cameras
        return visible_surface(self._scene.means, self.closest, cameras.viewmats[view], cameras.intrinsics[view], depth)

    @cached_property
    def closest(self) -> NDArray[np.float64]:
        """Smallest depth [N] in metres at which each Gaussian is visible in any view; inf where in none."""
        longer = max(self._cameras.width, self._cameras.height)
        width, height = (
            max(1, round(pixels * min(1.0, SURVEY_PIXELS / longer)))
            for pixels in (self._cameras.width, self._cameras.height)
        )
        cameras = self._cameras.resized(width, height)
        return closest_depths(self._scene.means, cameras, self._depths(cameras, get_backend(self._rasterizer)))

    def _depths(self, cameras: CameraSet, rasterizer: Rasterizer) -> Iterator[NDArray[np.float32]]:
        for viewmat, intrinsics in zip(cameras.viewmats, cameras.intrinsics):
            yield rasterizer.render(self._scene, viewmat, intrinsics, cameras.width, cameras.height).depth
