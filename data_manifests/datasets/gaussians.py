"""The Gaussians of a prepared scene, with labels: the release's own, trained ones from elsewhere, or the points
themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.coincident import place_tree
from chorus_common.runtime.errors import SceneError
from chorus_common.scene import GaussianScene
from chorus_common.scene_io import PointCloudOptions, points_to_gaussians, read_scene
from data_manifests.datasets.raw_scene import Annotations, LabelledPoints, RawScene, SceneSource
from data_manifests.datasets.settings import PrepareConfig, TrainedGaussians


@dataclass(frozen=True, eq=False)
class LabelledGaussians:
    """Gaussians [N] and their annotations; `dropped`: how many of the source are not among them; `all_points`: they are
    the points themselves, row by row.
    """

    scene: GaussianScene
    labels: Annotations
    dropped: int = 0
    all_points: bool = False


def gaussians_of(raw: RawScene, source: SceneSource, root: Path, config: PrepareConfig) -> LabelledGaussians:
    """Gaussians for `raw`: trained ones if the config says where they are, else the release's, else its points.

    Raises SceneError where the trained ones are missing or lie elsewhere than the points.
    """
    for path in trained_path(config, root, source):
        trained = read_scene(path, lod=config.gaussians.lod, max_gaussians=config.gaussians.max_gaussians)
        if raw.points is None:
            return LabelledGaussians(trained, Annotations())
        return transfer(trained, raw.points, config.gaussians, str(path))
    if raw.gaussians is not None:
        return LabelledGaussians(raw.gaussians, raw.labels or Annotations())
    assert raw.points is not None, "a reader returns points or Gaussians"
    return from_points(raw.points, config.grid, config.points, source.scene_id)


def trained_path(config: PrepareConfig, root: Path, source: SceneSource) -> tuple[Path, ...]:
    """Where the trained Gaussians of a scene lie; empty where there are to be none."""
    name = config.gaussians.path.replace("{scene_id}", source.scene_id).replace("{split}", source.split)
    return (root / name,) if name else ()


def from_points(points: LabelledPoints, grid: float, options: PointCloudOptions, name: str) -> LabelledGaussians:
    """One Gaussian per point, or per occupied cell of side `grid` metres: that of the cell's first point."""
    rows = first_per_cell(points.coord, grid) if grid > 0 else np.arange(len(points))
    assert points.color is not None, "points that become Gaussians have colours"
    normals = None if points.normal is None else points.normal[rows]
    scene = points_to_gaussians(points.coord[rows], points.color[rows], normals, options, name=name)
    kept_all = len(rows) == len(points)
    return LabelledGaussians(scene, points.truth.take(rows), len(points) - len(rows), kept_all)


def first_per_cell(coord: NDArray[np.floating], grid: float) -> NDArray[np.int64]:
    """Rows [K], ascending, of the first point in every occupied cell of side `grid`."""
    cells = np.floor(coord.astype(np.float64) / grid).astype(np.int64)
    cells -= cells.min(0)
    size = cells.max(0) + 1
    if float(size[0]) * float(size[1]) * float(size[2]) >= 2**62:
        raise SceneError(f"a grid of {grid:g} m has too many cells for a scene of {size * grid} m")
    keys = (cells[:, 0] * size[1] + cells[:, 1]) * size[2] + cells[:, 2]
    return np.sort(np.unique(keys, return_index=True)[1])


def transfer(scene: GaussianScene, points: LabelledPoints, how: TrainedGaussians, who: str) -> LabelledGaussians:
    """Trained Gaussians with the annotations (and normals) of their nearest points, cut to the points' bounding box.

    After SceneSplat (datasets/preprocessing/scannet/preprocess_scannet_gs.py): nearest neighbour, and nothing further
    than 0.25 m outside the box. Its box is the least oriented one and it labels at any distance; ours is aligned with
    the axes, and a Gaussian further than `reach` from every point has no label.
    """
    low, high = points.coord.min(0) - how.margin, points.coord.max(0) + how.margin
    inside = np.flatnonzero(((scene.means >= low) & (scene.means <= high)).all(1))
    if len(inside) == 0:
        raise SceneError(f"{who}: none of its {len(scene)} Gaussians lies within the scene's points; another frame?")
    kept = scene.select(inside)
    places, tree = place_tree(points.coord)
    distance, nearest = tree.query(kept.means)
    labels = points.truth.take(places.first[nearest])
    far = distance > how.reach
    for values in (*labels.segments.values(), labels.instances):
        if values is not None:
            values[far] = -1
    if labels.annotated is not None:
        labels.annotated[far] = False
    return LabelledGaussians(kept, labels, len(scene) - len(inside))
