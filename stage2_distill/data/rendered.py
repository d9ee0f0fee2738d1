"""Image-level targets (render-and-distill): what the teachers see, and what the sample's voxels show there.

Fhat = sum of w_i fhat_i over the Gaussians that a cell sees, over their weight (Chorus, arXiv 2512.17817): the cached
lifting matrix transposed. Blending weights are fixed by the scene, so nothing is rasterised and nothing is lifted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from stage2_distill.data.batch import Draw, TeacherTarget
from stage2_distill.data.groups import cell_cover, pixel_rows
from stage2_distill.data.targets import SceneTargets
from stage2_distill.sparse_rows import SparseRows

I64 = NDArray[np.int64]


def rendered_targets(
    scene: SceneTargets,
    rows: I64,
    voxel: I64,
    n_voxels: int,
    views: Sequence[int] | None,
    cover: float,
    draw: Draw | None = None,
) -> tuple[SparseRows, dict[str, TeacherTarget]]:
    """Cells of the scene's views as weighted means over voxels, and what each teacher says about them.

    Args:
        rows: matrix rows of the sample's Gaussians, ascending; voxel: of each.
        views: ascending, None = all.
        cover: cells in which the Gaussians hold less blending weight per pixel are left out: a crop must not answer for
            what lies behind it, nor a scene for what it leaves empty. The weight of the others is that number.
        draw: which of the cells are wanted of a teacher (None: all), asked for teacher after teacher.
    """
    index = scene.index(rows)
    seen = np.unique(index.columns // index.grid.cells).astype(np.int64)
    chosen = seen if views is None else np.intersect1d(seen, np.asarray(views, np.int64))
    index = index.select_views(chosen)
    weight = cell_cover(index)
    columns = np.flatnonzero(weight >= max(cover, 1e-6))
    pixels = pixel_rows(index, columns, voxel, n_voxels)
    if len(columns) == 0:
        return pixels, {}

    def said(teacher: str) -> TeacherTarget:
        place = np.arange(len(columns)) if draw is None else draw(len(columns))
        return TeacherTarget(
            torch.from_numpy(place),
            torch.from_numpy(scene.cells(teacher, chosen)[columns[place]]),
            torch.from_numpy(weight[columns[place]]),
            torch.zeros(len(place), dtype=torch.int64),
        )

    return pixels, {name: said(name) for name in scene.teachers}
