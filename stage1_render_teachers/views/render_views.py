"""A manifest row turned into rendered views, a batch at a time: the common start of calibration and of the scene
task.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from chorus_common.camera_io import read_cameras
from chorus_common.camera_io.view_list import find_view_list, listed_views
from chorus_common.cameras import CameraSet
from chorus_common.lifting import CellGrid, CellHits
from chorus_common.manifest import ManifestRow, path_digest
from chorus_common.rasterize import get_backend
from chorus_common.runtime.errors import SceneError
from chorus_common.scene import GaussianScene
from chorus_common.scene_check import AlignedScene, align_scene
from chorus_common.scene_io import read_scene
from chorus_common.viewpoints import Survey
from stage1_render_teachers.settings import Stage1Config
from stage1_render_teachers.views.captured import spread_views
from stage1_render_teachers.views.choose import choose_views


@dataclass(frozen=True, eq=False)
class ViewBatch:
    """B rendered views.

    Attributes:
        views: their indices in the camera set.
        images [B, H, W, 3] u8;  depth [B, H, W] f32 metres;  hits: one CellHits per view.
    """

    views: range
    images: NDArray[np.uint8]
    depth: NDArray[np.float32]
    hits: list[CellHits]


def config_grid(config: Stage1Config) -> CellGrid:
    """The cell grid that all dense teachers share."""
    return CellGrid(config.width, config.height, config.cell)


def load_scene(row: ManifestRow) -> GaussianScene:
    """The validated scene of `row`, under the manifest's name and label space.

    Raises SceneError for a file that is missing, damaged, or not the one that was indexed: the manifest's checksum
    stands for the scene in the cache's fingerprint, so it has to be true.
    """
    scene = replace(
        read_scene(row.scene_path, label_space=row.label_space, lod=row.lod, max_gaussians=row.max_gaussians),
        name=row.scene_id,
        label_space=row.label_space,
    )
    scene.without_outliers().validated()
    if path_digest(row.scene_path) != row.sha256:
        raise SceneError(f"{row.scene_path}: has changed since it was indexed; run chorus-data index again")
    return scene


def align_row(scene: GaussianScene, own: CameraSet | None, config: Stage1Config) -> AlignedScene:
    """The scene and its cameras with z up, in metres, without stray Gaussians, as the settings say."""
    aligned = align_scene(scene, config.alignment, own)
    return replace(aligned, scene=aligned.scene.validated())


def own_cameras(row: ManifestRow, config: Stage1Config) -> CameraSet | None:
    """The cameras that the scene brings, as its files have them, of a view list those that it names; None where the
    scene brings none.

    Raises SceneError where they hold no view.
    """
    if row.cameras_path is None:
        return None
    cameras = read_cameras(row.cameras_path)
    if len(cameras) == 0:
        raise SceneError(f"{row.cameras_path}: holds no usable view")
    found = find_view_list(row.cameras_path, config.view_list) if config.view_list else None
    return cameras if found is None else listed_views(cameras, found)


def pick_views(
    own: CameraSet | None, scene: GaussianScene, config: Stage1Config, survey: Survey | None = None
) -> CameraSet:
    """The scene's own cameras (`own_cameras`) at the configured picture size, or chosen ones where it brings none;
    `survey` of the scene, where it is known already, saves the choice a moment.
    """
    if own is None:
        size = config.width, config.height
        return choose_views(scene, config.n_views, *size, fov_x=config.fov_x, seed=config.seed, survey=survey)
    cameras = own.filled(config.width, config.height)
    if not 0 < config.max_views < len(cameras):
        return cameras
    if config.view_choice == "spread":
        return spread_views(scene, cameras, config.max_views, seed=config.seed)
    return cameras.select(np.unique(np.linspace(0, len(cameras) - 1, config.max_views).round().astype(int)))


def render_batches(scene: GaussianScene, cameras: CameraSet, config: Stage1Config) -> Iterator[ViewBatch]:
    """Render all views in order, `config.batch` at a time."""
    rasterizer = get_backend(config.rasterizer)
    grid = config_grid(config)
    for first in range(0, len(cameras), config.batch):
        views = range(first, min(first + config.batch, len(cameras)))
        images = np.empty((len(views), config.height, config.width, 3), dtype=np.uint8)
        depth = np.empty((len(views), config.height, config.width), dtype=np.float32)
        hits = []
        for i, view in enumerate(views):
            rendered = rasterizer.render(
                scene,
                cameras.viewmats[view],
                cameras.intrinsics[view],
                config.width,
                config.height,
                grid=grid,
                interpolation=config.interpolation,
                background=config.background,
            )
            assert rendered.hits is not None
            images[i] = np.clip(np.rint(rendered.color * 255), 0, 255).astype(np.uint8)
            depth[i] = rendered.depth
            hits.append(rendered.hits)
        yield ViewBatch(views, images, depth, hits)
